//! Publications as they are written: topics, and payloads in JSON.

use super::{
    event::{Subject, Unwritten},
    outbox::{Body, Outcome, Posted, Update},
    presence::Presence,
    supervisor::Supervisor,
    takes::Takes,
    tasks::TaskRecord,
};
use crate::{
    config::Config,
    engine::{ArenaUsage, Engine},
    task::monitor::Monitor,
    text::{Text, text},
    time::Instant,
    wire::{
        Outbound, TopicName,
        report::{self, BufferTooSmall},
        update_topic,
    },
};
use core::ops::Deref;

/// Topic of a publication.
pub(super) fn topic<E: Engine>(subject: Subject, of: &Supervisor<'_, E>) -> TopicName {
    let outbound = match subject {
        Subject::Discovery => Outbound::Create,
        Subject::Heartbeat => Outbound::Alive,
        Subject::Metrics => Outbound::Metrics,
        Subject::Sample(_) => Outbound::TaskMetrics,
        Subject::ModuleRequest(_) => Outbound::ModuleRequest,
        Subject::Entry(index) => match of.outbox.get(index).map(|posted| &posted.body) {
            Some(Body::Sample(_)) => Outbound::TaskMetrics,
            Some(Body::Update { update, .. }) if update.fallback => {
                return update_topic(&update.round, of.config.proplet_id);
            }
            // Without one its fate has been told.
            Some(Body::Results { .. } | Body::Update { .. }) | None => Outbound::Results,
            Some(Body::InvokeResults { .. }) => Outbound::InvokeResults,
            Some(Body::Message { bytes, topic_len }) => {
                let below = bytes.get(..*topic_len).unwrap_or_default();
                let below = core::str::from_utf8(below).unwrap_or_default();
                // The engine bounds it so that it fits.
                return of.topics.below(below).unwrap_or_default();
            }
        },
    };
    of.topics.name(outbound)
}

/// Writes publications of a proplet at a moment.
pub(super) struct Writer<'w> {
    config: &'w Config<'w>,
    presence: &'w Presence,
    arena: ArenaUsage,
}

impl<'w> Writer<'w> {
    pub(super) const fn new(
        config: &'w Config<'w>,
        presence: &'w Presence,
        arena: ArenaUsage,
    ) -> Self {
        Self {
            config,
            presence,
            arena,
        }
    }

    /// Serialises a payload, JSON, into `buf` and returns its length.
    ///
    /// # Errors
    /// `buf` is too small, or it is a sample of a task that has gone since it was given out.
    pub(super) fn write<E: Engine>(
        &self,
        subject: Subject,
        of: &Supervisor<'_, E>,
        buf: &mut [u8],
        now: Instant,
    ) -> Result<usize, Unwritten> {
        Ok(match subject {
            Subject::Discovery => self.discovery(of, buf)?,
            Subject::Heartbeat => self.heartbeat(buf)?,
            Subject::Metrics => self.metrics(of, buf, now)?,
            Subject::Sample(slot) => {
                let monitor = of.tasks.get(slot).and_then(TaskRecord::monitor);
                let monitor = monitor.ok_or(Unwritten::Gone)?;
                self.sample(of.tasks.id(slot), monitor, buf)?
            }
            Subject::ModuleRequest(fetch) => {
                let app_name = of.modules.location(fetch);
                report::write(&report::ModuleRequest { app_name }, buf)?
            }
            Subject::Entry(index) => {
                let posted = of.outbox.get(index).ok_or(Unwritten::Gone)?;
                self.posted(posted, buf)?
            }
        })
    }

    fn discovery<E: Engine>(
        &self,
        of: &Supervisor<'_, E>,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let takes = Takes::now(of);
        let discovery = report::Discovery {
            proplet_id: self.config.proplet_id,
            namespace: self.config.namespace,
            metadata: report::Metadata {
                max_inline_bytes: Some(takes.max_inline_bytes),
                slots: Some(takes.slots),
                deployments: Some(takes.deployments),
                memory_page_bytes: Some(takes.page_bytes).filter(|bytes| *bytes > 0),
                ..self.config.metadata
            },
        };
        report::write(&discovery, buf)
    }

    fn heartbeat(&self, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        // A manager that has lost its memory takes the metadata from the first heartbeat that it gets, and a
        // second discovery message would reset what others keep.
        let metadata = report::Metadata {
            // The manager does not read them.
            wasm_proposals: &[],
            ..self.config.metadata
        };
        self.alive(report::Status::Alive, Some(metadata), buf)
    }

    /// The last will.
    pub(super) fn offline(&self, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        self.alive(report::Status::Offline, None, buf)
    }

    fn alive(
        &self,
        status: report::Status,
        metadata: Option<report::Metadata<'_>>,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let alive = report::Alive {
            proplet_id: self.config.proplet_id,
            status,
            namespace: self.config.namespace,
            metadata,
        };
        report::write(&alive, buf)
    }

    fn posted<B: Deref<Target = [u8]>>(
        &self,
        posted: &Posted<B>,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let (task_id, proplet_id) = (&*posted.task, self.config.proplet_id);
        let mut words = Text::new();
        match &posted.body {
            Body::Sample(monitor) => self.sample(task_id, monitor, buf),
            Body::Results { outcome, .. } => {
                let (results, error) = parts(task_id, outcome, &mut words);
                let results = report::Results {
                    task_id,
                    proplet_id,
                    results,
                    error,
                };
                report::write(&results, buf)
            }
            Body::InvokeResults {
                invocation: invocation_id,
                outcome,
            } => {
                let (results, error) = parts(task_id, outcome, &mut words);
                let results = report::InvokeResults {
                    task_id,
                    invocation_id,
                    proplet_id,
                    results,
                    error,
                };
                report::write(&results, buf)
            }
            Body::Update { update, .. } => self.update(task_id, update, &mut words, buf),
            Body::Message { bytes, topic_len } => {
                copy(bytes.get(*topic_len..).unwrap_or_default(), buf)
            }
        }
    }

    fn update<B: Deref<Target = [u8]>>(
        &self,
        task_id: &str,
        update: &Update<B>,
        words: &mut Text,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let (output, error) = parts(task_id, &update.outcome, words);
        if update.fallback {
            return copy(output.as_bytes(), buf);
        }
        let proplet_id = self.config.proplet_id;
        let results = report::RoundResults {
            task_id,
            proplet_id,
            results: report::RoundUpdate {
                task_id,
                round_id: &update.round,
                proplet_id,
                num_samples: update.samples,
                update_b64: output.as_bytes(),
                format: &update.format,
                metrics: report::Empty {},
            },
            error,
        };
        report::write(&results, buf)
    }

    fn metrics<E: Engine>(
        &self,
        of: &Supervisor<'_, E>,
        buf: &mut [u8],
        now: Instant,
    ) -> Result<usize, BufferTooSmall> {
        let (process, arena) = (of.engine.process(), &self.arena);
        let in_use = (arena.total - arena.free) as u64;
        let metrics = report::Metrics {
            proplet_id: self.config.proplet_id,
            namespace: self.config.namespace,
            timestamp: self.presence.timestamp(now),
            cpu_metrics: report::CpuMetrics {
                user_seconds: process.user.as_secs_f64(),
                system_seconds: process.system.as_secs_f64(),
                percent: self.presence.cpu_percent(),
            },
            memory_metrics: report::MemoryMetrics {
                rss_bytes: process.rss,
                heap_alloc_bytes: in_use,
                heap_sys_bytes: arena.total as u64,
                heap_inuse_bytes: in_use,
                container_usage_bytes: None,
                container_limit_bytes: None,
            },
            memory_pages: Some(arena.pages).filter(|count| *count > 0),
            memory_page_bytes: Some(arena.page_bytes).filter(|_| arena.pages > 0),
            overdue_tasks: Some(of.tasks.overdue()).filter(|count| *count > 0),
            slow_steps: Some(process.slow_steps).filter(|count| *count > 0),
        };
        report::write(&metrics, buf)
    }

    fn sample(
        &self,
        task_id: &str,
        monitor: &Monitor,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let (sample, profile) = (monitor.latest(), &monitor.profile);
        let (cpu, memory) = (profile.collect_cpu, profile.collect_memory);
        let aggregate = &sample.aggregate;
        let percent = 100.0 * sample.memory_bytes as f64 / self.arena.total.max(1) as f64;
        let metrics = report::TaskMetrics {
            task_id,
            proplet_id: self.config.proplet_id,
            timestamp: self.presence.timestamp(sample.at),
            metrics: report::Sample {
                cpu_percent: cpu.then_some(sample.cpu_percent),
                memory_bytes: memory.then_some(sample.memory_bytes),
                memory_percent: memory.then_some(percent),
                uptime_seconds: Some(monitor.uptime().as_secs()),
                thread_count: profile.collect_threads.then_some(1),
                memory_pages: Some(sample.pages).filter(|count| memory && *count > 0),
                work: Some(sample.work),
                dropped: (sample.dropped > 0).then_some(sample.dropped),
                ..report::Sample::default()
            },
            aggregated: profile.retain_history.then(|| report::Aggregate {
                avg_cpu_usage: cpu.then(|| aggregate.cpu_mean()),
                max_cpu_usage: cpu.then_some(aggregate.cpu_max),
                avg_memory_usage: memory.then(|| aggregate.memory_mean() as u64),
                max_memory_usage: memory.then_some(aggregate.memory_max),
                sample_count: aggregate.count,
                ..report::Aggregate::default()
            }),
        };
        report::write(&metrics, buf)
    }
}

fn copy(bytes: &[u8], buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
    let limit = buf.len();
    let to = buf.get_mut(..bytes.len()).ok_or(BufferTooSmall { limit })?;
    to.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Results and error of a task; their words are made in `words`.
fn parts<'o, B: Deref<Target = [u8]>>(
    task: &str,
    outcome: &'o Outcome<B>,
    words: &'o mut Text,
) -> (&'o str, Option<&'o str>) {
    match outcome {
        Ok(results) => (results.as_str(words), None),
        Err(reason) => match reason.words() {
            Some(words) => ("", Some(words)),
            None => {
                *words = text(format_args!("{}", reason.of(task)));
                ("", Some(words))
            }
        },
    }
}
