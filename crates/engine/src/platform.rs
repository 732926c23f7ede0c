//! The services of a port for its workers and their guests.

use proplet::{engine::ProcessUsage, time::Duration};

/// A port's threads, clock, generator and board.
pub trait Platform: Sync + 'static {
    /// Waits until [`wake`](Self::wake) was called, for this or another worker, since the last time, or
    /// until a time since boot, or less: who waits looks again. Called on a worker's thread.
    fn wait(&self, until: Option<Duration>);

    /// Lets one worker return from [`wait`](Self::wait). Called on any thread.
    fn wake(&self);

    /// This worker did `units` of work. For a simulator, where code takes no time: it lets
    /// the time pass.
    fn worked(&self, _units: u32) {}

    /// Tells the control thread that a run has ended, or that a guest has a message.
    fn notify(&self);

    /// Processor time of the calling thread so far. Called on a worker's thread.
    fn thread_time(&self) -> Duration;

    /// Resources that the proplet has used.
    fn process(&self) -> ProcessUsage;

    /// Time since boot; it never goes back.
    fn now(&self) -> Duration;

    /// Fills `to` from the platform's generator.
    fn random(&self, to: &mut [u8]);

    /// Prepares a pin of the board. It stays so after the run. An output is low at first.
    ///
    /// # Errors
    /// There is no such pin, or it can't be used so.
    fn gpio_configure(&self, pin: u32, mode: PinMode) -> Result<(), BoardError>;

    /// Sets an output's level.
    ///
    /// # Errors
    /// There is no such pin, or it is no output.
    fn gpio_write(&self, pin: u32, is_high: bool) -> Result<(), BoardError>;

    /// A pin's level.
    ///
    /// # Errors
    /// There is no such pin, or it can't be read.
    fn gpio_read(&self, pin: u32) -> Result<bool, BoardError>;

    /// Lets the board's thread call [`Workers::measure`] until there is nothing left to measure;
    /// false where there is no such thread, for want of sensors. Called on any thread.
    ///
    /// [`Workers::measure`]: crate::Workers::measure
    fn wake_board(&self) -> bool;

    /// Measures with a sensor of the board, in millionths of the channel's unit. It may take its time:
    /// it is called on the board's thread.
    ///
    /// # Errors
    /// There is no such sensor, or it doesn't have the channel; or it could not be read now.
    fn sensor_read(&self, sensor: u32, channel: Channel) -> Result<i64, BoardError>;
}

/// Failure of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardError {
    /// It does not offer that.
    Absent,
    /// It does, but not so, or not now.
    Failed,
}

/// Mode of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMode {
    /// An input.
    Input,
    /// An input with a pull-up resistor.
    InputPullUp,
    /// An input with a pull-down resistor.
    InputPullDown,
    /// An output.
    Output,
}

impl PinMode {
    /// The mode of that number in guests' calls: from 0, as declared here.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Input,
            1 => Self::InputPullUp,
            2 => Self::InputPullDown,
            3 => Self::Output,
            _ => return None,
        })
    }
}

/// Quantity that a sensor measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Temperature of what is around it, in degrees Celsius.
    AmbientTemperature,
    /// Relative humidity, in percent.
    Humidity,
    /// Pressure of the air, in pascals.
    Pressure,
    /// Illuminance, in lux.
    Light,
    /// Acceleration along x, in metres per second squared.
    AccelerationX,
    /// Acceleration along y, in metres per second squared.
    AccelerationY,
    /// Acceleration along z, in metres per second squared.
    AccelerationZ,
    /// Voltage, in volts.
    Voltage,
}

impl Channel {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::AmbientTemperature,
        Self::Humidity,
        Self::Pressure,
        Self::Light,
        Self::AccelerationX,
        Self::AccelerationY,
        Self::AccelerationZ,
        Self::Voltage,
    ];

    /// The channel of that number in guests' calls: from 0, as in [`ALL`](Self::ALL).
    pub fn from_number(number: u32) -> Option<Self> {
        let index = usize::try_from(number).ok()?;
        Self::ALL.get(index).copied()
    }

    /// Its number in guests' calls.
    pub const fn number(self) -> u32 {
        self as u32
    }
}
