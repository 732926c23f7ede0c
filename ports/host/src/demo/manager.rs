//! A stand-in for the manager: it speaks MQTT 3.1.1 and sends what the real one sends.

use anyhow::{Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rumqttc::{Client, Event, MqttOptions, NetworkOptions, Packet, QoS};
use serde_json::{Value, json};
use std::{
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// A message from the channel.
#[derive(Debug, Clone)]
pub struct Message {
    /// When it came.
    pub at: Instant,
    /// Its topic, without the channel's prefix.
    pub topic: String,
    /// Its payload.
    pub body: Value,
}

/// The stand-in.
#[expect(missing_debug_implementations, reason = "the client has none")]
pub struct Manager {
    client: Client,
    inbox: Receiver<Message>,
    prefix: String,
    proplet: String,
}

impl Manager {
    /// Connects to the listener for MQTT 3.1.1 at `port` on loopback, and subscribes to the
    /// channel.
    ///
    /// # Errors
    /// If it can't.
    pub fn connect(port: u16, tenant: &str, channel_id: &str, proplet: &str) -> Result<Self> {
        let mut options = MqttOptions::new("manager", "127.0.0.1", port);
        options.set_max_packet_size(16 << 20, 16 << 20);
        let (client, mut connection) = Client::new(options, 1000);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        connection.eventloop.set_network_options(network);
        let prefix = format!("m/{tenant}/c/{channel_id}/");
        client.subscribe(format!("{prefix}#"), QoS::ExactlyOnce)?;
        let (sender, inbox) = channel();
        let (ready, subscribed) = channel();
        let start = prefix.clone();
        thread::Builder::new()
            .name("manager".into())
            .spawn(move || {
                for event in connection.iter() {
                    match event {
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            // After the first time the receiver is gone.
                            let _ = ready.send(());
                        }
                        Ok(Event::Incoming(Packet::Publish(publish))) => {
                            let message = Message {
                                at: Instant::now(),
                                topic: publish.topic.trim_start_matches(&start).into(),
                                body: serde_json::from_slice(&publish.payload).unwrap_or_default(),
                            };
                            if sender.send(message).is_err() {
                                return;
                            }
                        }
                        Ok(_) => {}
                        Err(_) => thread::sleep(Duration::from_millis(100)),
                    }
                }
            })?;
        if subscribed.recv_timeout(Duration::from_secs(5)).is_err() {
            bail!("the broker on port {port} does not answer");
        }
        Ok(Self {
            client,
            inbox,
            prefix,
            proplet: proplet.into(),
        })
    }

    /// Publishes `body` below the channel's prefix.
    ///
    /// # Errors
    /// If the client's thread is gone.
    pub fn publish(&self, topic: &str, body: &Value) -> Result<()> {
        let topic = format!("{}{topic}", self.prefix);
        self.client
            .publish(topic, QoS::AtLeastOnce, false, body.to_string())?;
        Ok(())
    }

    /// Starts a task with an inline module; `extra` fields are added or replaced.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn start(&self, id: &str, name: &str, module: &[u8], extra: Value) -> Result<()> {
        let mut body = json!({"id": id, "name": name, "state": 0,
            "file": BASE64_STANDARD.encode(module), "cli_args": null, "broadcast": false,
            "daemon": false, "latent": false, "encrypted": false, "proplet_id": self.proplet});
        if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
            body.extend(extra);
        }
        self.publish("control/manager/start", &body)
    }

    /// Stops a task.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn stop(&self, id: &str) -> Result<()> {
        let body = json!({"id": id, "broadcast": false, "proplet_id": self.proplet});
        self.publish("control/manager/stop", &body)
    }

    /// Invokes a latent task.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn invoke(&self, id: &str, invocation: &str, inputs: &Value) -> Result<()> {
        let body = json!({"id": id, "broadcast": false, "proplet_id": self.proplet,
            "invocation_id": invocation, "inputs": inputs});
        self.publish("control/manager/invoke", &body)
    }

    /// The next message on the channel, its own included; `None` after `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Message> {
        self.inbox.recv_timeout(timeout).ok()
    }
}
