//! Configuration of a link, and its memory.

use core::{fmt, time::Duration};

/// Address of the broker, identity of the proplet, and time limits.
#[derive(Clone, Copy)]
pub struct LinkConfig<'a> {
    /// Name or address, IPv4 or IPv6, of the broker.
    pub host: &'a str,
    /// TCP port of the broker's MQTT 5.
    pub port: u16,
    /// Whether to speak TLS with the owner of a certificate for the host.
    pub tls: bool,
    /// The proplet's id: MQTT client id and user name. 1 to 64 bytes.
    pub proplet_id: &'a str,
    /// The password. Without one, no user name is sent either.
    pub api_key: &'a str,
    /// MQTT keep-alive in seconds.
    pub keep_alive: u16,
    /// Seconds for which the broker keeps the session of a lost connection and commands for it. Zero
    /// turns that off.
    pub session_expiry: u32,
    /// Whether to leave a last will: "offline", on the alive topic.
    pub will: bool,
    /// Maximum number of bytes of a packet that the broker is told, at least 1: it drops larger ones, and
    /// their senders see success. Without one it drops none.
    pub max_packet: Option<u32>,
    /// Time without a byte from a broker that has sent more messages than could be taken, after which a new
    /// connection is to bring them. A stack may lose the room of what it has received and nobody has read: then it
    /// must be longer than the gaps in a stream.
    pub lull: Duration,
    /// Longest wait for each of: the broker's address, the TCP connection, the CONNACK, all
    /// SUBACKs.
    pub timeout: Duration,
    /// Longest wait for the broker to read anything of what is sent.
    pub write_timeout: Duration,
    /// Delay after the first failure, doubled for each further one.
    pub retry_first: Duration,
    /// Maximum of that delay.
    pub retry_most: Duration,
    /// Longest time of an HTTP exchange, redirects included.
    pub http_timeout: Duration,
    /// Longest wait of a shutdown for the agent to be drained.
    pub grace: Duration,
    /// Seed of the delays' jitter; different on each device.
    pub seed: u64,
}

impl LinkConfig<'_> {
    /// The defaults, without an identity and a broker.
    pub const DEFAULT: Self = Self {
        host: "",
        port: minimq::MQTT_INSECURE_DEFAULT_PORT,
        tls: false,
        proplet_id: "",
        api_key: "",
        keep_alive: 30,
        session_expiry: 300,
        will: true,
        max_packet: None,
        lull: Duration::from_millis(100),
        timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        retry_first: Duration::from_secs(1),
        retry_most: Duration::from_secs(60),
        http_timeout: Duration::from_secs(30),
        grace: Duration::from_secs(2),
        seed: 0,
    };

    /// Refuses a configuration with which no link can run.
    pub(crate) fn check(&self, has_tls: bool) -> Result<(), SetupError> {
        match self {
            Self { host: "", .. } => Err(SetupError::Host),
            Self { tls: true, .. } if !has_tls => Err(SetupError::Tls),
            Self { proplet_id: "", .. } => Err(SetupError::PropletId),
            Self {
                max_packet: Some(0),
                ..
            } => Err(SetupError::MaxPacket),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for LinkConfig<'_> {
    /// Everything but the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("proplet_id", &self.proplet_id)
            .field("keep_alive", &self.keep_alive)
            .field("session_expiry", &self.session_expiry)
            .field("will", &self.will)
            .field("max_packet", &self.max_packet)
            .field("lull", &self.lull)
            .field("timeout", &self.timeout)
            .field("write_timeout", &self.write_timeout)
            .field("retry_first", &self.retry_first)
            .field("retry_most", &self.retry_most)
            .field("http_timeout", &self.http_timeout)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Memory of a link.
#[derive(Debug)]
pub struct Buffers<'b, const N: usize> {
    /// What is read at once of the broker's packets, at least [`BUFFER_MIN`](crate::gate::BUFFER_MIN)
    /// bytes. Each message is streamed through it, so its size only decides how many reads a large one
    /// takes.
    pub rx: &'b mut [u8],
    /// Packets that go out in one write: an acknowledgement and what the message brought about. Of any
    /// size; what does not fit goes by itself.
    pub output: &'b mut [u8],
    /// Outbound packets: up to eight that wait for their acknowledgement, and at any time the
    /// CONNECT (some 100 bytes, the ids, the secret, the will). At least 2 KiB; 4 KiB hold eight
    /// results.
    pub tx: &'b mut [u8],
    /// The last will's payload. 128 bytes and the proplet id, or none if there is no will.
    pub will: &'b mut [u8],
    /// A buffer for each HTTP exchange that may be under way at once: the head of a request or of a
    /// response, 1 to 2 KiB.
    pub http: [&'b mut [u8]; N],
}

/// Configuration or buffers with which no link can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupError {
    /// No host is named.
    Host,
    /// TLS is asked for, and the stack has none.
    Tls,
    /// The proplet id is empty or longer than 64 bytes.
    PropletId,
    /// The maximum packet size is zero.
    MaxPacket,
    /// The receive buffer has less than [`BUFFER_MIN`](crate::gate::BUFFER_MIN) bytes.
    ReceiveBuffer,
    /// The will does not fit its buffer, or its topic is longer than 128 bytes.
    Will,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "no broker is set",
            Self::Tls => "TLS is asked for, which this proplet does not have",
            Self::PropletId => "the proplet id must have 1 to 64 bytes",
            Self::MaxPacket => "the maximum packet size must be 1 at least",
            Self::ReceiveBuffer => "the receive buffer is too small for the head of a message",
            Self::Will => "the last will is too long: its topic may have 128 bytes",
        })
    }
}

impl core::error::Error for SetupError {}
