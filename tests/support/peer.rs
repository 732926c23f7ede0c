//! A stand-in for the manager: MQTT 3.1.1 at QoS 2, on all topics of the channel.

use super::{CHANNEL, SOON, TENANT};
use rumqttc::{Client, Event, LastWill, MqttOptions, Packet, QoS, SubscribeFilter};
use serde_json::Value;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Larger than anything that the tests send.
const PACKET_MAX: usize = 16 << 20;

/// A message from the channel.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) at: Instant,
    /// Without the channel's prefix.
    pub(crate) topic: String,
    /// Null if the payload is no JSON.
    pub(crate) body: Value,
    /// Quality of service at which it was published.
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
}

pub(crate) fn is_results(message: &Message) -> bool {
    message.topic == "control/proplet/results"
}

pub(crate) fn is_alive(message: &Message) -> bool {
    message.topic == "control/proplet/alive"
}

#[derive(Default)]
struct Inbox {
    messages: Vec<Message>,
    /// Subscriptions that the broker has acknowledged.
    subscribed: usize,
    /// Errors that it can't help.
    trouble: String,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The stand-in. It keeps every message that it gets.
pub(crate) struct Peer {
    client: Client,
    qos: QoS,
    shared: Arc<Shared>,
}

impl Peer {
    /// Connects to the broker on loopback, and subscribes to the channel and to the topics of
    /// federated learning, which have no prefix.
    pub(crate) fn connect(port: u16, id: &str, user: Option<(&str, &str)>) -> Self {
        Self::connect_with(port, id, user, QoS::ExactlyOnce)
    }

    /// As [`connect`](Self::connect), at this quality of service.
    pub(crate) fn connect_with(port: u16, id: &str, user: Option<(&str, &str)>, qos: QoS) -> Self {
        let filters = [format!("m/{TENANT}/c/{CHANNEL}/#"), "fl/#".into()];
        let peer = Self::open(port, id, user, qos, &filters);
        peer.await_subscription(1);
        peer
    }

    /// Connects to the broker on loopback, and subscribes to nothing.
    pub(crate) fn connect_deaf(port: u16, id: &str) -> Self {
        Self::open(port, id, None, QoS::ExactlyOnce, &[])
    }

    /// Ends the connection, and gives the broker the time to take note.
    pub(crate) fn disconnect(&self) {
        self.shared.change(|i| i.closed = true);
        let _ = self.client.try_disconnect();
        thread::sleep(Duration::from_millis(200));
    }

    fn open(port: u16, id: &str, user: Option<(&str, &str)>, qos: QoS, filters: &[String]) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options
            .set_max_packet_size(PACKET_MAX, PACKET_MAX)
            .set_keep_alive(Duration::from_secs(30))
            // Beyond its own limit of 20, mosquitto 2.0.11 lets QoS 2 messages wait without end.
            .set_inflight(10)
            .set_last_will(LastWill::new("tests/peer", "gone", QoS::AtMostOnce, false));
        if let Some((user, password)) = user {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = Client::new(options, 4096);
        let shared = Arc::new(Shared::default());
        let (inbox, subscriber) = (Arc::clone(&shared), client.clone());
        let prefix = format!("m/{TENANT}/c/{CHANNEL}/");
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| SubscribeFilter::new(filter.clone(), qos))
            .collect();
        thread::spawn(move || {
            for event in connection.iter() {
                if inbox.lock().closed {
                    return;
                }
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) if !filters.is_empty() => {
                        // Each session is a new one.
                        let done = subscriber.try_subscribe_many(filters.clone());
                        if let Err(error) = done {
                            inbox.change(|i| i.trouble = error.to_string());
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        inbox.change(|i| i.subscribed += 1);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let message = Message {
                            at: Instant::now(),
                            topic: publish.topic.trim_start_matches(&prefix).into(),
                            body: serde_json::from_slice(&publish.payload).unwrap_or_default(),
                            qos: publish.qos as u8,
                            is_retained: publish.retain,
                        };
                        inbox.change(|i| i.messages.push(message));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        inbox.change(|i| i.trouble = error.to_string());
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        });
        Self {
            client,
            qos,
            shared,
        }
    }

    /// Waits until the broker has taken its `count`th subscription.
    pub(crate) fn await_subscription(&self, count: usize) {
        let found = self.wait(SOON, |inbox| (inbox.subscribed >= count).then_some(()));
        assert!(
            found.is_some(),
            "the broker does not answer: {}",
            self.shared.lock().trouble
        );
    }

    pub(crate) fn publish(&self, topic: &str, body: &Value) {
        self.publish_bytes(topic, body.to_string().into_bytes());
    }

    pub(crate) fn publish_bytes(&self, topic: &str, payload: Vec<u8>) {
        self.publish_raw(&format!("m/{TENANT}/c/{CHANNEL}/{topic}"), payload);
    }

    /// Publishes on a topic outside the channel.
    pub(crate) fn publish_raw(&self, topic: &str, payload: Vec<u8>) {
        self.send(topic, false, payload);
    }

    /// Publishes a message that the broker keeps for those who subscribe later.
    pub(crate) fn publish_retained(&self, topic: &str, body: &Value) {
        let topic = format!("m/{TENANT}/c/{CHANNEL}/{topic}");
        self.send(&topic, true, body.to_string().into_bytes());
    }

    fn send(&self, topic: &str, is_retained: bool, payload: Vec<u8>) {
        self.client
            .publish(topic, self.qos, is_retained, payload)
            .expect("the peer's thread runs");
    }

    fn wait<T>(&self, timeout: Duration, find: impl Fn(&Inbox) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut inbox = self.shared.lock();
        loop {
            if let Some(found) = find(&inbox) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            inbox = match self.shared.changed.wait_timeout(inbox, left) {
                Ok((inbox, _)) => inbox,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The first message of all that is `wanted`, past ones included.
    pub(crate) fn find(
        &self,
        timeout: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> Option<Message> {
        self.wait(timeout, |i| i.messages.iter().find(|m| wanted(m)).cloned())
    }

    /// As [`find`](Self::find); fails if none comes in time.
    pub(crate) fn expect(
        &self,
        timeout: Duration,
        what: &str,
        wanted: impl Fn(&Message) -> bool,
    ) -> Message {
        self.find(timeout, wanted).unwrap_or_else(|| {
            let messages = self.all(|_| true);
            let from = messages.len().saturating_sub(20);
            let last: Vec<String> = messages[from..].iter().map(gist).collect();
            panic!(
                "{what}: nothing of it after {timeout:?}; the peer's trouble: '{}'; the last \
                 messages of {}:\n{}",
                self.shared.lock().trouble,
                messages.len(),
                last.join("\n")
            )
        })
    }

    /// Waits until `count` messages are `wanted`, and returns all of them.
    pub(crate) fn expect_count(
        &self,
        timeout: Duration,
        what: &str,
        count: usize,
        wanted: impl Fn(&Message) -> bool,
    ) -> Vec<Message> {
        self.wait(timeout, |inbox| {
            let found = inbox.messages.iter().filter(|m| wanted(m));
            (found.count() >= count).then_some(())
        });
        let found = self.all(wanted);
        assert!(
            found.len() >= count,
            "{what}: {} of {count} after {timeout:?}",
            found.len()
        );
        found
    }

    /// Waits until `count` messages are `wanted`.
    pub(crate) fn await_count(
        &self,
        timeout: Duration,
        what: &str,
        count: usize,
        wanted: impl Fn(&Message) -> bool,
    ) {
        let found = |inbox: &Inbox| inbox.messages.iter().filter(|m| wanted(m)).count();
        let done = self.wait(timeout, |i| (found(i) >= count).then_some(()));
        assert!(
            done.is_some(),
            "{what}: {} of {count} after {timeout:?}",
            found(&self.shared.lock())
        );
    }

    /// All messages so far that are `wanted`.
    pub(crate) fn all(&self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let inbox = self.shared.lock();
        inbox
            .messages
            .iter()
            .filter(|m| wanted(m))
            .cloned()
            .collect()
    }

    /// The first results of a task.
    pub(crate) fn results(&self, id: &str) -> Message {
        self.expect(SOON, &format!("results of {id}"), |m| {
            is_results(m) && m.body["task_id"] == id
        })
    }

    /// All results of a task so far.
    pub(crate) fn all_results(&self, id: &str) -> Vec<Value> {
        let all = self.all(|m| is_results(m) && m.body["task_id"] == id);
        all.into_iter().map(|m| m.body).collect()
    }

    /// The results of an invocation.
    pub(crate) fn invoke_results(&self, invocation: &str) -> Value {
        let message = self.expect(SOON, &format!("results of invocation {invocation}"), |m| {
            m.topic == "control/proplet/invoke_results" && m.body["invocation_id"] == invocation
        });
        message.body
    }

    /// Bytes of the arena in use, from metrics that come after now.
    pub(crate) fn arena_in_use(&self) -> u64 {
        let since = Instant::now();
        let metrics = self.expect(SOON, "metrics", |m| {
            m.topic == "control/proplet/metrics" && m.at >= since
        });
        let used = &metrics.body["memory_metrics"]["heap_alloc_bytes"];
        used.as_u64().unwrap_or_else(|| panic!("{}", metrics.body))
    }

    /// The latest sample of a task that came after `since`.
    pub(crate) fn sample(&self, timeout: Duration, id: &str, since: Instant) -> Message {
        self.expect(timeout, &format!("task_metrics of {id}"), |m| {
            m.topic == "control/proplet/task_metrics" && m.body["task_id"] == id && m.at >= since
        })
    }
}

fn gist(message: &Message) -> String {
    let body = message.body.to_string();
    let shown: String = body.chars().take(200).collect();
    format!("  {} {shown}", message.topic)
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.change(|i| i.closed = true);
        // Its thread ends with the connection, or at the next event.
        let _ = self.client.try_disconnect();
    }
}
