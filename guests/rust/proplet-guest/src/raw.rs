//! The imports as they are, to be called with what is valid for the lengths that go with it.
//! docs/host-api.md is their reference.

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Pointers for address and length.
    pub fn get_proplet_id(offset: *mut *mut u8, len: *mut u32) -> i32;
    /// Pointers for address and length.
    pub fn get_model_data(offset: *mut *mut u8, len: *mut u32) -> i32;
    /// Pointers for address and length.
    pub fn get_dataset_data(offset: *mut *mut u8, len: *mut u32) -> i32;
    /// Key, its length, buffer, its length.
    pub fn get_env(key: *const u8, key_len: u32, buf: *mut u8, cap: u32) -> i32;
    /// Index, buffer, its length.
    pub fn get_input(index: u32, buf: *mut u8, cap: u32) -> i32;
    /// Text and its length.
    pub fn publish_result(text: *const u8, len: u32);
    /// Level, text, its length.
    pub fn log(level: u32, text: *const u8, len: u32);
    /// Nothing.
    pub fn now_ms() -> i64;
    /// Milliseconds.
    pub fn sleep_ms(ms: u32);
    /// Milliseconds.
    pub fn timer_start(period_ms: u32);
    /// Nothing.
    pub fn timer_wait() -> u32;
    /// Nothing.
    pub fn timer_stop();
    /// Buffer and its length.
    pub fn random(buf: *mut u8, len: u32);
    /// Topic, its length, payload, its length.
    pub fn publish(topic: *const u8, topic_len: u32, payload: *const u8, len: u32) -> i32;
    /// Filter and its length.
    pub fn subscribe(filter: *const u8, len: u32) -> i32;
    /// Buffer, its length, a pointer for the topic's length.
    pub fn receive(buf: *mut u8, cap: u32, topic_len: *mut u32) -> i32;
    /// Pin and mode.
    pub fn gpio_configure(pin: u32, mode: u32);
    /// Pin and level.
    pub fn gpio_write(pin: u32, level: u32);
    /// Pin.
    pub fn gpio_read(pin: u32) -> i32;
    /// Sensor, channel, a pointer for the value.
    pub fn sensor_read(sensor: u32, channel: u32, micro: *mut i64) -> i32;
}
