//! What a port gives its workers and their guests.

use proplet::{
    engine::{ProcessUsage, Schedule, Slot},
    time::Duration,
};

/// A port's threads, clock, generator and board.
pub trait Platform: Sync + 'static {
    /// Waits until [`wake`](Self::wake) was called for this slot since the last time, or longer
    /// than needed. Called on the slot's own thread.
    fn wait(&self, slot: Slot);

    /// Lets the slot's thread return from [`wait`](Self::wait) and [`sleep`](Self::sleep).
    fn wake(&self, slot: Slot);

    /// Waits for `time`, or until [`wake`](Self::wake) was called for this slot since the last time,
    /// or less: who sleeps looks again. Others have the slot's turn meanwhile; where it had one, it
    /// has one again afterwards. Called on the slot's own thread, in a run.
    fn sleep(&self, slot: Slot, time: Duration);

    /// A run of this schedule begins. Called on its own thread.
    fn schedule(&self, slot: Slot, schedule: Schedule);

    /// This thread did so many units of work. For a simulator, where code takes no time: it lets
    /// the time pass.
    fn worked(&self, _units: u32) {}

    /// Waits for the turn of a guest that [`Preemption::Fuel`] preempts. Called before its first
    /// and after each, on its own thread. A guest that is `interrupted` only ends: it need not
    /// wait.
    ///
    /// [`Preemption::Fuel`]: proplet::engine::Preemption::Fuel
    fn take_turn(&self, slot: Slot, interrupted: bool);

    /// Lets guests come to their end that were [hurried](Self::hurry), and others go first where the
    /// time of a guest that [`Preemption::Time`] preempts is over. Called after each slice of a
    /// guest that is not to end, on its own thread.
    ///
    /// [`Preemption::Time`]: proplet::engine::Preemption::Time
    fn give_way(&self, slot: Slot);

    /// Gives the turn up, at the end of a run.
    fn end_turn(&self, slot: Slot);

    /// A run was interrupted: it should have its turn soon.
    fn hurry(&self, slot: Slot);

    /// Tells the control thread that a run has ended, or that a guest has a message.
    fn notify(&self);

    /// Processor time of a slot's thread so far. Called on any thread.
    fn thread_time(&self, slot: Slot) -> Duration;

    /// What the proplet has used.
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

/// Why a board did not do what a guest wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardError {
    /// It does not offer that.
    Absent,
    /// It does, but not so, or not now.
    Failed,
}

/// How a pin is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinMode {
    /// An input that somebody else drives.
    Input,
    /// An input that is high unless somebody drives it.
    InputPullUp,
    /// An input that is low unless somebody drives it.
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

/// What a sensor measures.
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
