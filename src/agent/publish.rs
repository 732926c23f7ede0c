//! What the agent has to say, and how it is written.

use super::{
    Agent, Discovery, Publication, Qos, SECOND_HEARTBEAT, Subject, Token, Unwritten,
    outbox::{Body, Letter, Outcome, Update},
    tasks::TaskRecord,
};
use core::ops::Deref;

use crate::{
    engine::{Engine, Slot},
    task::monitor::Monitor,
    time::Instant,
    wire::{
        Outbound, TopicName,
        report::{self, BufferTooSmall},
        update_topic,
    },
};

impl<E: Engine> Agent<'_, E> {
    /// The next message to publish, of quality `most` or less; `None` without a connection.
    ///
    /// It is given out once, and its fate must be told by
    /// [`Event::Published`](super::Event::Published).
    pub fn poll_publish(&mut self, most: Qos, now: Instant) -> Option<Publication> {
        if !self.connected {
            return None;
        }
        let (subject, qos) = self.next_subject(most, now)?;
        Some(Publication {
            token: Token(subject),
            qos,
        })
    }

    fn next_subject(&mut self, most: Qos, now: Instant) -> Option<(Subject, Qos)> {
        let acknowledged = most >= Qos::AtLeastOnce;
        if self.discovery == Discovery::Due && acknowledged {
            self.discovery = Discovery::Sent;
            return Some((Subject::Create, Qos::AtLeastOnce));
        }
        let (due, again) = self.heartbeat;
        if due <= now && self.discovery != Discovery::Due {
            let pause = if again {
                SECOND_HEARTBEAT.min(self.config.heartbeat)
            } else {
                self.config.heartbeat
            };
            self.heartbeat = (now + pause, false);
            return Some((Subject::Alive, Qos::AtMostOnce));
        }
        if let Some((index, qos)) = self.outbox.take(most, now) {
            return Some((Subject::Letter(index), qos));
        }
        if acknowledged && let Some(index) = self.next_request() {
            return Some((Subject::Request(index), Qos::AtLeastOnce));
        }
        if self.metrics <= now && !self.config.metrics_interval.is_zero() {
            self.metrics = now + self.config.metrics_interval;
            self.measure(now);
            return Some((Subject::Metrics, Qos::AtMostOnce));
        }
        let slot = self.next_sample(now)?;
        Some((Subject::Sample(slot), Qos::AtMostOnce))
    }

    fn next_request(&mut self) -> Option<u8> {
        let index = (0..=u8::MAX)
            .zip(self.fetches.iter())
            .find_map(|(index, f)| (f.request_due && f.is_registry()).then_some(index))?;
        self.fetches[usize::from(index)].request_due = false;
        Some(index)
    }

    fn next_sample(&mut self, now: Instant) -> Option<Slot> {
        let (slot, at) = self.tasks.next_sample()?;
        if at > now {
            return None;
        }
        let usage = self.engine.usage(slot);
        self.tasks.sample(slot, &usage, now);
        Some(slot)
    }

    /// Topic of a publication.
    pub fn topic(&self, token: Token) -> TopicName {
        let outbound = match token.0 {
            Subject::Create => Outbound::Create,
            Subject::Alive => Outbound::Alive,
            Subject::Metrics => Outbound::Metrics,
            Subject::Sample(_) => Outbound::TaskMetrics,
            Subject::Request(_) => Outbound::ModuleRequest,
            Subject::Letter(index) => match &self.outbox.get(index).body {
                Body::Sample(_) => Outbound::TaskMetrics,
                Body::Update { update, .. } if update.fallback => {
                    return update_topic(&update.round, self.config.proplet_id);
                }
                Body::Results { .. } | Body::Update { .. } => Outbound::Results,
                Body::InvokeResults { .. } => Outbound::InvokeResults,
                Body::Message { bytes, topic_len } => {
                    let topic = bytes.get(..*topic_len).unwrap_or_default();
                    let topic = core::str::from_utf8(topic).unwrap_or_default();
                    // The engine bounds it so that it fits.
                    return self.topics.below(topic).unwrap_or_default();
                }
            },
        };
        self.topics.name(outbound)
    }

    /// Serialises a publication's payload, JSON, into `buf` and returns its length.
    ///
    /// # Errors
    /// `buf` is too small, or it is a sample of a task that has gone since it was given out.
    pub fn write(&self, token: Token, buf: &mut [u8], now: Instant) -> Result<usize, Unwritten> {
        let proplet_id = self.config.proplet_id;
        match token.0 {
            Subject::Create => {
                let discovery = report::Discovery {
                    proplet_id,
                    namespace: self.config.namespace,
                    metadata: self.config.metadata,
                };
                Ok(report::write(&discovery, buf)?)
            }
            Subject::Alive => Ok(report::write(&self.alive(report::Status::Alive), buf)?),
            Subject::Metrics => Ok(report::write(&self.metrics(now), buf)?),
            Subject::Sample(slot) => {
                let monitor = self.tasks.get(slot).and_then(TaskRecord::monitor);
                let monitor = monitor.ok_or(Unwritten::Gone)?;
                Ok(report::write(
                    &self.sample(self.tasks.id(slot), monitor),
                    buf,
                )?)
            }
            Subject::Request(index) => {
                let app_name = self.fetches[usize::from(index)].location();
                Ok(report::write(&report::ModuleRequest { app_name }, buf)?)
            }
            Subject::Letter(index) => Ok(self.write_letter(self.outbox.get(index), buf)?),
        }
    }

    fn write_letter(
        &self,
        letter: &Letter<E::Buffer>,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let (task_id, proplet_id) = (&*letter.task, self.config.proplet_id);
        match &letter.body {
            Body::Sample(monitor) => report::write(&self.sample(task_id, monitor), buf),
            Body::Results { outcome, .. } => {
                let (results, error) = parts(outcome);
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
                let (results, error) = parts(outcome);
                let results = report::InvokeResults {
                    task_id,
                    invocation_id,
                    proplet_id,
                    results,
                    error,
                };
                report::write(&results, buf)
            }
            Body::Update { update, .. } => self.write_update(task_id, update, buf),
            Body::Message { bytes, topic_len } => {
                copy(bytes.get(*topic_len..).unwrap_or_default(), buf)
            }
        }
    }

    fn write_update(
        &self,
        task_id: &str,
        update: &Update<E::Buffer>,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let (output, error) = parts(&update.outcome);
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

    pub(super) fn alive(&self, status: report::Status) -> report::Alive<'_> {
        report::Alive {
            proplet_id: self.config.proplet_id,
            status,
            namespace: self.config.namespace,
        }
    }

    /// `at` on the wall clock, if that is known.
    fn timestamp(&self, at: Instant) -> Option<report::Timestamp> {
        report::Timestamp::from_unix_millis(self.boot?.checked_add(at.as_millis())?)
    }

    fn metrics(&self, now: Instant) -> report::Metrics<'_> {
        let (process, arena) = (self.engine.process(), self.engine.arena());
        let in_use = (arena.total - arena.free) as u64;
        report::Metrics {
            proplet_id: self.config.proplet_id,
            namespace: self.config.namespace,
            timestamp: self.timestamp(now),
            cpu_metrics: report::CpuMetrics {
                user_seconds: process.user.as_secs_f64(),
                system_seconds: process.system.as_secs_f64(),
                percent: self.cpu_percent,
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
            overdue_tasks: Some(self.tasks.overdue()).filter(|count| *count > 0),
            slow_steps: Some(process.slow_steps).filter(|count| *count > 0),
        }
    }

    /// Takes the processor's share since the metrics before.
    pub(super) fn measure(&mut self, now: Instant) {
        let process = self.engine.process();
        let (cpu, (before, at)) = (process.user + process.system, self.cpu_before);
        let wall = now.since(at).as_secs_f64();
        let busy = cpu.saturating_sub(before).as_secs_f64();
        self.cpu_percent = if wall > 0.0 { 100.0 * busy / wall } else { 0.0 };
        self.cpu_before = (cpu, now);
    }

    fn sample<'s>(&'s self, task_id: &'s str, monitor: &Monitor) -> report::TaskMetrics<'s> {
        let (sample, profile) = (monitor.latest(), &monitor.profile);
        let (cpu, memory) = (profile.collect_cpu, profile.collect_memory);
        let aggregate = &sample.aggregate;
        let arena = self.engine.arena();
        let percent = 100.0 * sample.memory_bytes as f64 / arena.total.max(1) as f64;
        report::TaskMetrics {
            task_id,
            proplet_id: self.config.proplet_id,
            timestamp: self.timestamp(sample.at),
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
        }
    }
}

fn copy(bytes: &[u8], buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
    let limit = buf.len();
    let to = buf.get_mut(..bytes.len()).ok_or(BufferTooSmall { limit })?;
    to.copy_from_slice(bytes);
    Ok(bytes.len())
}

fn parts<B: Deref<Target = [u8]>>(outcome: &Outcome<B>) -> (&str, Option<&str>) {
    match outcome {
        Ok(results) => (results.as_str(), None),
        Err(error) => ("", Some(error)),
    }
}
