//! A controller as small as tests need it: listens to one device, serves blocks, publishes what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use punnet_protocol::topics::{self, Purpose};
use punnet_protocol::*;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS};
use tokio::task::JoinHandle;

use super::mosquitto::Mosquitto;
use crate::fleet::{encoded, name};

type Blobs = BTreeMap<Digest, Vec<u8>>;

#[derive(Default)]
struct Heard {
    blobs: Blobs,
    presence: Option<Presence>,
    reported: Option<Reported>,
    replies: Vec<Reply>,
    cleared: Vec<Purpose>,
    log: String,
    bytes_asked: usize,
    ready: bool,
}

pub struct Controller {
    client: AsyncClient,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Controller {
    pub async fn connect(broker: &Mosquitto, blobs: Blobs) -> Self {
        let mut options = MqttOptions::new("controller", "127.0.0.1", broker.port);
        options.set_max_packet_size(20 << 20, 20 << 20).set_inflight(100);
        let (client, events) = AsyncClient::new(options, 100);
        let heard = Arc::new(Mutex::new(Heard {
            blobs,
            ..Heard::default()
        }));
        for purpose in Purpose::TO_FLEET {
            let filter = topics::filter(&name("home"), purpose);
            client.subscribe(filter.as_str(), QoS::AtLeastOnce).await.unwrap();
        }
        let task = tokio::spawn(listen(events, client.clone(), heard.clone()));
        let controller = Self { client, heard, task };
        controller.until(|| controller.heard.lock().unwrap().ready).await;
        controller
    }

    pub async fn publish(&self, purpose: Purpose, payload: Vec<u8>, retain: bool) {
        let topic = topics::topic(&name("home"), &name("kitchen"), purpose);
        self.client
            .publish(topic.as_str(), QoS::AtLeastOnce, retain, payload)
            .await
            .unwrap();
    }

    pub async fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn serve(&self, blobs: Blobs) {
        self.heard.lock().unwrap().blobs = blobs;
    }

    pub fn presence(&self) -> Option<Presence> {
        self.heard.lock().unwrap().presence
    }

    pub fn reported(&self) -> Option<Reported> {
        self.heard.lock().unwrap().reported.clone()
    }

    pub fn replies(&self) -> Vec<Reply> {
        self.heard.lock().unwrap().replies.clone()
    }

    pub fn bytes_asked(&self) -> u64 {
        self.heard.lock().unwrap().bytes_asked as u64
    }

    /// All output that was streamed.
    pub fn heard_log(&self) -> String {
        self.heard.lock().unwrap().log.clone()
    }

    /// Topics that the device said to be poisoned.
    pub fn too_large(&self) -> Vec<Purpose> {
        let poisoned = |reply: &Reply| match (&reply.to, &reply.outcome) {
            (
                ReplyTo::Packet { purpose },
                Outcome::Rejected {
                    reason: Rejection::TooLarge,
                    ..
                },
            ) => Some(*purpose),
            _ => None,
        };
        self.heard
            .lock()
            .unwrap()
            .replies
            .iter()
            .filter_map(poisoned)
            .collect()
    }

    /// The device has cleared the retained message of a topic.
    pub fn cleared(&self, purpose: Purpose) -> bool {
        self.heard.lock().unwrap().cleared.contains(&purpose)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(mut events: EventLoop, client: AsyncClient, heard: Arc<Mutex<Heard>>) {
    while let Ok(event) = events.poll().await {
        match event {
            Event::Incoming(Incoming::SubAck(_)) => {
                // Subscribed last, so that only what is cleared from now on is heard.
                if std::mem::replace(&mut heard.lock().unwrap().ready, true) {
                    continue;
                }
                for purpose in Purpose::TO_DEVICE {
                    let topic = topics::topic(&name("home"), &name("kitchen"), purpose);
                    drop(client.try_subscribe(topic.as_str(), QoS::AtMostOnce));
                }
            }
            Event::Incoming(Incoming::Publish(publish)) => {
                let Some((_, purpose)) = topics::parse(&name("home"), &publish.topic) else {
                    continue;
                };
                if let Some(answer) = hear(&mut heard.lock().unwrap(), purpose, &publish.payload) {
                    let topic = topics::topic(&name("home"), &name("kitchen"), Purpose::Block);
                    client
                        .try_publish(topic.as_str(), QoS::AtLeastOnce, false, answer)
                        .unwrap();
                }
            }
            _ => {}
        }
    }
}

fn hear(heard: &mut Heard, purpose: Purpose, payload: &[u8]) -> Option<Vec<u8>> {
    match purpose {
        Purpose::Presence => heard.presence = Some(envelope::decode(payload).unwrap()),
        Purpose::Reported => heard.reported = Some(envelope::decode(payload).unwrap()),
        Purpose::Reply => heard.replies.push(envelope::decode(payload).unwrap()),
        Purpose::Want => {
            let want: BlockWant = envelope::decode(payload).unwrap();
            heard.bytes_asked += want.length as usize;
            let bytes = &heard.blobs[&want.blob];
            let end = (want.offset as usize + want.length as usize).min(bytes.len());
            return Some(encoded(&BlockAnswer::Data(Block {
                blob: want.blob,
                offset: want.offset,
                total_bytes: bytes.len() as u64,
                data: heapless::Vec::from_slice(&bytes[want.offset as usize..end]).unwrap(),
            })));
        }
        Purpose::Desired | Purpose::Command | Purpose::Block if payload.is_empty() => {
            heard.cleared.push(purpose);
        }
        Purpose::Log => {
            let chunk: LogChunk = envelope::decode(payload).unwrap();
            heard.log.push_str(&String::from_utf8_lossy(&chunk.data));
        }
        Purpose::Desired | Purpose::Command | Purpose::Block => {}
    }
    None
}
