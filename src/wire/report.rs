//! Messages out, as JSON objects. Fields that are `None` are left out.

use base64::{display::Base64Display, prelude::BASE64_STANDARD};
use core::fmt;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// The buffer is too small for the message; what it holds is unspecified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// The buffer's size in bytes.
    pub limit: usize,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message takes more than {} bytes", self.limit)
    }
}

impl core::error::Error for BufferTooSmall {}

/// Writes `message` as JSON to the start of `buf` and returns its length in bytes.
///
/// # Errors
/// `buf` is too small.
pub fn write(message: &impl Serialize, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
    let limit = buf.len();
    serde_json_core::to_slice(message, buf).map_err(|_| BufferTooSmall { limit })
}

/// Description of a proplet in its discovery message; `None` is left out.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[expect(missing_docs, reason = "the protocol's field names")]
pub struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_arch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proplet_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm_runtime: Option<&'a str>,
    /// Proposals to WebAssembly 1.0 that modules may use. Not of the protocol, as all that follows: the manager
    /// ignores it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub wasm_proposals: &'a [&'a str],
    /// Maximum number of bytes of a module in a start, before base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_inline_bytes: Option<usize>,
    /// Tasks at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// Latent deployments at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployments: Option<usize>,
    /// Bytes of a page of linear memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_page_bytes: Option<u32>,
}

impl Metadata<'_> {
    /// Nothing.
    pub const EMPTY: Self = Self {
        description: None,
        tags: &[],
        location: None,
        ip: None,
        environment: None,
        os: None,
        hostname: None,
        cpu_arch: None,
        total_memory_bytes: None,
        proplet_version: None,
        wasm_runtime: None,
        wasm_proposals: &[],
        max_inline_bytes: None,
        slots: None,
        deployments: None,
        memory_page_bytes: None,
    };
}

/// A moment, written in RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// `ms` milliseconds after the Unix epoch; `None` from the year 10000 on.
    pub fn from_unix_millis(ms: u64) -> Option<Self> {
        let nanos = i128::from(ms) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.0.to_calendar_date();
        let (hour, minute, second, ms) = self.0.to_hms_milli();
        let month = u8::from(month);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Says that the proplet exists.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Discovery<'a> {
    /// The proplet, not empty.
    pub proplet_id: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its description.
    pub metadata: Metadata<'a>,
}

/// Whether a proplet lives. The manager doesn't read it: to it any message is a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It does.
    Alive,
    /// It is gone.
    Offline,
}

/// A heartbeat.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Alive<'a> {
    /// The proplet, not empty.
    pub proplet_id: &'a str,
    /// Whether it lives.
    pub status: Status,
    /// Its namespace.
    pub namespace: &'a str,
    /// Description of the proplet, for a manager that does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata<'a>>,
}

/// The end of a task.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Results<'a> {
    /// The task.
    pub task_id: &'a str,
    /// The proplet that ran it.
    pub proplet_id: &'a str,
    /// Its result, in decimal; empty if it has none.
    pub results: &'a str,
    /// Reason of its failure, not empty. To the manager, a task without has completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The end of an invocation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct InvokeResults<'a> {
    /// The task.
    pub task_id: &'a str,
    /// The invocation, not empty.
    pub invocation_id: &'a str,
    /// The proplet that ran it.
    pub proplet_id: &'a str,
    /// Its result, in decimal; empty if it has none or failed.
    pub results: &'a str,
    /// Reason of its failure, not empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The end of a task of a federated round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RoundResults<'a> {
    /// The task.
    pub task_id: &'a str,
    /// The proplet that ran it.
    pub proplet_id: &'a str,
    /// The update.
    pub results: RoundUpdate<'a>,
    /// Reason of its failure, not empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The envelope of a round's update.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RoundUpdate<'a> {
    /// The task.
    pub task_id: &'a str,
    /// The round.
    pub round_id: &'a str,
    /// The proplet that ran it.
    pub proplet_id: &'a str,
    /// Samples that it stands for.
    pub num_samples: u64,
    /// The guest's result, written in base64; empty if it failed.
    #[serde(serialize_with = "base64")]
    pub update_b64: &'a [u8],
    /// Format of the update.
    pub format: &'a str,
    /// None: the guest's metrics are in its update.
    pub metrics: Empty,
}

/// An empty object.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Empty {}

fn base64<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(bytes, &BASE64_STANDARD))
}

/// Asks the registry for a module.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ModuleRequest<'a> {
    /// The image reference.
    pub app_name: &'a str,
}

/// Resources that the proplet uses.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Metrics<'a> {
    /// The proplet, not empty.
    pub proplet_id: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// When it was measured; without, the manager takes the time of receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Processor.
    pub cpu_metrics: CpuMetrics,
    /// Memory.
    pub memory_metrics: MemoryMetrics,
    /// Pages of linear memory that guests have written to; left out if it is 0. Not of the protocol, as
    /// all that follows: the manager ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pages: Option<u32>,
    /// Bytes of such a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_page_bytes: Option<u32>,
    /// Tasks that run on, seconds after their deadline or their stop; left out if it is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue_tasks: Option<usize>,
    /// Steps of guests, since boot, that took more than a second of processor time; without, there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_steps: Option<u32>,
}

/// Processor time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct CpuMetrics {
    /// Seconds in user mode.
    #[serde(serialize_with = "finite")]
    pub user_seconds: f64,
    /// Seconds in the kernel.
    #[serde(serialize_with = "finite")]
    pub system_seconds: f64,
    /// Load of late; 100 is one core.
    #[serde(serialize_with = "finite")]
    pub percent: f64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryMetrics {
    /// Resident.
    pub rss_bytes: u64,
    /// In use in the heap.
    pub heap_alloc_bytes: u64,
    /// Size of the heap.
    pub heap_sys_bytes: u64,
    /// In use in the heap, fragmentation included.
    pub heap_inuse_bytes: u64,
    /// In use in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage_bytes: Option<u64>,
    /// Limit of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_limit_bytes: Option<u64>,
}

/// Resources that a task uses.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TaskMetrics<'a> {
    /// The task, not empty.
    pub task_id: &'a str,
    /// The proplet that runs it.
    pub proplet_id: &'a str,
    /// When it was measured; without, the manager takes the time of receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// The latest sample.
    pub metrics: Sample,
    /// All samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregated: Option<Aggregate>,
}

/// A sample; what is not collected is `None`, and zero to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[expect(missing_docs, reason = "the protocol's field names")]
pub struct Sample {
    /// 100 is one core.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "finite_some"
    )]
    pub cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "finite_some"
    )]
    pub memory_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_descriptor_count: Option<u32>,
    /// Pages of linear memory that it has written to; left out if it is 0. Not of the protocol, as all that
    /// follows: the manager ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pages: Option<u32>,
    /// Branches and calls done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<u64>,
    /// Messages and log lines over a limit, which were dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u32>,
}

/// All samples in one; what is not collected is `None`, and zero to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[expect(missing_docs, reason = "the protocol's field names")]
pub struct Aggregate {
    /// 100 is one core.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "finite_some"
    )]
    pub avg_cpu_usage: Option<f64>,
    /// 100 is one core.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "finite_some"
    )]
    pub max_cpu_usage: Option<f64>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg_memory_usage: Option<u64>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_disk_read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_disk_write: Option<u64>,
    pub sample_count: u32,
}

/// JSON has no other numbers.
fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(if value.is_finite() { *value } else { 0.0 })
}

fn finite_some<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    finite(&value.unwrap_or_default(), serializer)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::{string::String, vec};

    fn read_back(message: &impl Serialize) -> Value {
        let mut buf = [0; 2048];
        let len = write(message, &mut buf).unwrap();
        serde_json::from_slice(&buf[..len]).unwrap()
    }

    #[test]
    fn discovery() {
        let mut message = Discovery {
            proplet_id: "p",
            namespace: "default",
            metadata: Metadata::default(),
        };
        assert_eq!(
            read_back(&message),
            json!({"proplet_id": "p", "namespace": "default", "metadata": {}})
        );
        message.metadata = Metadata {
            description: Some("d"),
            tags: &["a", "b"],
            location: Some("l"),
            ip: Some("192.0.2.1"),
            environment: Some("embedded"),
            os: Some("zephyr"),
            hostname: Some("h"),
            cpu_arch: Some("xtensa"),
            total_memory_bytes: Some(u64::MAX),
            proplet_version: Some("0.1.0"),
            wasm_runtime: Some("wamr"),
            wasm_proposals: &["sign-ext"],
            max_inline_bytes: Some(58_000),
            slots: Some(64),
            deployments: Some(8),
            memory_page_bytes: Some(1024),
        };
        assert_eq!(
            read_back(&message)["metadata"],
            json!({
                "description": "d", "tags": ["a", "b"], "location": "l", "ip": "192.0.2.1",
                "environment": "embedded", "os": "zephyr", "hostname": "h", "cpu_arch": "xtensa",
                "total_memory_bytes": u64::MAX, "proplet_version": "0.1.0", "wasm_runtime": "wamr",
                "wasm_proposals": ["sign-ext"], "max_inline_bytes": 58_000, "slots": 64,
                "deployments": 8, "memory_page_bytes": 1024,
            })
        );
    }

    #[test]
    fn alive() {
        for (status, text) in [(Status::Alive, "alive"), (Status::Offline, "offline")] {
            let mut message = Alive {
                proplet_id: "p",
                status,
                namespace: "n",
                metadata: None,
            };
            let mut expected = json!({"proplet_id": "p", "status": text, "namespace": "n"});
            assert_eq!(read_back(&message), expected);

            message.metadata = Some(Metadata {
                description: Some("d"),
                ..Metadata::EMPTY
            });
            expected["metadata"] = json!({"description": "d"});
            assert_eq!(read_back(&message), expected);
        }
    }

    #[test]
    fn results() {
        let mut message = Results {
            task_id: "t",
            proplet_id: "p",
            results: "42",
            error: None,
        };
        assert_eq!(
            read_back(&message),
            json!({"task_id": "t", "proplet_id": "p", "results": "42"})
        );
        message.error = Some("trap");
        assert_eq!(read_back(&message)["error"], "trap");
    }

    #[test]
    fn invoke_results() {
        let message = InvokeResults {
            task_id: "t",
            invocation_id: "i",
            proplet_id: "p",
            results: "",
            error: Some("task t has not been precompiled"),
        };
        assert_eq!(
            read_back(&message),
            json!({
                "task_id": "t", "invocation_id": "i", "proplet_id": "p", "results": "",
                "error": "task t has not been precompiled",
            })
        );
    }

    #[test]
    fn module_request() {
        let message = ModuleRequest { app_name: "a/b:c" };
        assert_eq!(read_back(&message), json!({"app_name": "a/b:c"}));
    }

    #[test]
    fn metrics() {
        let message = Metrics {
            proplet_id: "p",
            namespace: "n",
            timestamp: Timestamp::from_unix_millis(1_700_000_000_123),
            cpu_metrics: CpuMetrics {
                user_seconds: 1.5,
                system_seconds: f64::NAN,
                percent: f64::INFINITY,
            },
            memory_metrics: MemoryMetrics {
                rss_bytes: 1,
                heap_alloc_bytes: 2,
                heap_sys_bytes: 3,
                heap_inuse_bytes: 4,
                container_usage_bytes: None,
                container_limit_bytes: Some(6),
            },
            memory_pages: Some(7),
            memory_page_bytes: Some(1024),
            overdue_tasks: None,
            slow_steps: None,
        };
        assert_eq!(
            read_back(&message),
            json!({
                "proplet_id": "p", "namespace": "n", "timestamp": "2023-11-14T22:13:20.123Z",
                "cpu_metrics": {"user_seconds": 1.5, "system_seconds": 0.0, "percent": 0.0},
                "memory_metrics": {
                    "rss_bytes": 1, "heap_alloc_bytes": 2, "heap_sys_bytes": 3,
                    "heap_inuse_bytes": 4, "container_limit_bytes": 6,
                },
                "memory_pages": 7, "memory_page_bytes": 1024,
            })
        );
    }

    #[test]
    fn task_metrics() {
        let mut message = TaskMetrics {
            task_id: "t",
            proplet_id: "p",
            timestamp: None,
            metrics: Sample::default(),
            aggregated: None,
        };
        assert_eq!(
            read_back(&message),
            json!({"task_id": "t", "proplet_id": "p", "metrics": {}})
        );
        message.metrics = Sample {
            cpu_percent: Some(f64::NEG_INFINITY),
            memory_bytes: Some(1),
            memory_percent: Some(0.25),
            disk_read_bytes: Some(2),
            disk_write_bytes: Some(3),
            uptime_seconds: Some(4),
            thread_count: Some(5),
            file_descriptor_count: Some(6),
            memory_pages: Some(8),
            work: Some(7),
            dropped: Some(3),
        };
        message.aggregated = Some(Aggregate {
            avg_cpu_usage: Some(1.5),
            max_memory_usage: Some(8),
            sample_count: 9,
            ..Aggregate::default()
        });
        let read = read_back(&message);
        assert_eq!(
            read["metrics"],
            json!({
                "cpu_percent": 0.0, "memory_bytes": 1, "memory_percent": 0.25, "disk_read_bytes": 2,
                "disk_write_bytes": 3, "uptime_seconds": 4, "thread_count": 5,
                "file_descriptor_count": 6, "memory_pages": 8, "work": 7, "dropped": 3,
            })
        );
        assert_eq!(
            read["aggregated"],
            json!({"avg_cpu_usage": 1.5, "max_memory_usage": 8, "sample_count": 9})
        );
    }

    #[test]
    fn timestamps() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
        ] {
            let timestamp = Timestamp::from_unix_millis(ms).unwrap();
            assert_eq!(read_back(&timestamp), text);
        }
        assert_eq!(Timestamp::from_unix_millis(u64::MAX), None);
        assert_eq!(Timestamp::from_unix_millis(253_402_300_800_000), None);
    }

    #[test]
    fn every_buffer_is_enough_or_too_small() {
        let message = Results {
            task_id: "t",
            proplet_id: "p",
            results: "\u{1}\"\\ä",
            error: Some("e"),
        };
        let mut buf = [0; 256];
        let len = write(&message, &mut buf).unwrap();
        for limit in 0..len {
            let error = write(&message, &mut buf[..limit]).unwrap_err();
            assert_eq!(error, BufferTooSmall { limit });
        }
        assert_eq!(write(&message, &mut buf[..len]), Ok(len));
    }

    proptest! {
        #[test]
        fn any_text_is_escaped(text: String, edges in "[\0-\u{1f}\"\\\\/\u{7f}-\u{9f}\u{2028}\u{2029}\u{fffe}\u{10ffff}]*") {
            for text in [text, edges] {
                let mut buf = vec![0; 64 + 6 * text.len()];
                let len = write(&ModuleRequest { app_name: &text }, &mut buf).unwrap();
                let read: Value = serde_json::from_slice(&buf[..len]).unwrap();
                prop_assert_eq!(read, json!({"app_name": text}));
            }
        }

        #[test]
        fn any_number_is_json(user_seconds: f64, bits: u64, percent in prop::num::f64::ANY, rss_bytes: u64) {
            let cpu = CpuMetrics { user_seconds, system_seconds: f64::from_bits(bits), percent };
            read_back(&cpu);
            let mut buf = [0; 256];
            let len = write(&cpu, &mut buf).unwrap();
            // serde_json reads floats with an error of its own.
            let text = core::str::from_utf8(&buf[..len]).unwrap();
            let mut numbers = text.split([':', ',', '}']).skip(1).step_by(2);
            for value in [cpu.user_seconds, cpu.system_seconds, cpu.percent] {
                let expected = if value.is_finite() { value } else { 0.0 };
                let written: f64 = numbers.next().unwrap().parse().unwrap();
                prop_assert_eq!(written.to_bits(), expected.to_bits());
            }
            let memory = MemoryMetrics { rss_bytes, ..MemoryMetrics::default() };
            prop_assert_eq!(read_back(&memory)["rss_bytes"].as_u64(), Some(rss_bytes));
        }

        #[test]
        fn any_timestamp_reads_back(ms in 0u64..253_402_207_200_000) {
            let read = read_back(&Timestamp::from_unix_millis(ms).unwrap());
            let timestamp: jiff::Timestamp = read.as_str().unwrap().parse().unwrap();
            prop_assert_eq!(timestamp.as_millisecond() as u64, ms);
        }
    }
}
