//! `network.ping.run`: ICMP echo, without a program.

mod packet;
mod socket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use longshore_model::operation::{DomainName, Peer, Ping, one_host};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{PingResult, RoundTrip};
use rustix::io::Errno;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::packet::{Family, Token};
use self::socket::Socket;
use super::tool::stopped;
use super::{Ended, answer, no_interface};
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::{Stop, Stops, random_text};

const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
/// After an error, so that a socket that has nothing but errors is not asked all the time.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// `network.ping.run`. A host that does not answer is a result like any other: nothing received.
pub(crate) async fn run(host: &Host, ping: &Ping, stops: &Stops) -> Finished {
    let (address, socket) = match reach(host, &ping.peer, stops).await {
        Ok(reached) => reached,
        Err(finished) => return *finished,
    };
    let token = random_text().into_bytes().try_into().unwrap_or_default();
    let mut course = Course { answers: Vec::new(), last_error: None };
    let stop = course.run(ping, &socket, Family::of(address.ip()), &token, stops).await;
    let result = course.result(shown(address, &ping.peer), ping);
    let finished = answer(false, &result);
    match stop {
        None => finished,
        Some(stop) => {
            let late = format!("{} of {} packets were sent when the job's time was up", result.sent, ping.count);
            Finished { result: finished.result, ..stopped(stop, &late) }
        }
    }
}

async fn reach(host: &Host, peer: &Peer, stops: &Stops) -> Ended<(SocketAddr, Socket)> {
    match peer {
        Peer::Address(address) => connect(*address, |_| Ok(0)),
        Peer::LinkLocal(address, zone) => {
            connect(IpAddr::V6(*address), |socket| match (socket.interface_index(zone.as_str()), zone.as_str().parse()) {
                (Ok(index), _) | (Err(_), Ok(index)) => Ok(index),
                (Err(_), Err(_)) => Err(no_interface(host, zone).into()),
            })
        }
        Peer::Name(name) => {
            let mut last = None;
            // A name may have addresses of a family that the host cannot use.
            for address in resolve(name, stops).await? {
                match connect(address.ip(), |_| Ok(0)) {
                    Ok(reached) => return Ok(reached),
                    Err(finished) => last = last.or(Some(finished)),
                }
            }
            Err(last.unwrap_or_else(|| Finished::failed(ErrorCode::HostFault, format!("{name} has no address of a host")).into()))
        }
    }
}

fn connect(address: IpAddr, interface: impl Fn(&socket::Unconnected) -> Ended<u32>) -> Ended<(SocketAddr, Socket)> {
    let family = Family::of(address);
    let socket = socket::open(family).map_err(|errno| not_open(family, errno))?;
    let address = socket::socket_address(address, interface(&socket)?);
    let socket = socket
        .connect(address)
        .map_err(|error| Finished::failed(ErrorCode::HostFault, format!("the host cannot reach {}: {}", address.ip(), said(&error))))?;
    Ok((address, socket))
}

fn not_open(family: Family, errno: Errno) -> Finished {
    if socket::is_missing(errno) {
        let family = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        return Finished::failed(ErrorCode::Unsupported, format!("the host has no {family}"));
    }
    if matches!(errno, Errno::ACCESS | Errno::PERM) {
        let message = "the host lets the agent open neither a ping socket nor a raw one: put the agent's group into the range of \
                       `sysctl net.ipv4.ping_group_range` (such as `0 2147483647`), or give the agent CAP_NET_RAW";
        return Finished::failed(ErrorCode::NotPermitted, message);
    }
    Finished::system_fault("open a socket for ICMP", &errno.into())
}

async fn resolve(name: &DomainName, stops: &Stops) -> Ended<Vec<SocketAddr>> {
    let failed = |why: &str| Box::new(Finished::failed(ErrorCode::HostFault, format!("could not look up {name}: {why}")));
    tokio::select! {
        found = timeout(RESOLVE_LIMIT, tokio::net::lookup_host((name.as_str(), 0))) => match found {
            Ok(Ok(found)) => Ok(found.filter(|address| one_host(address.ip()).is_ok()).collect()),
            Ok(Err(error)) => Err(failed(&said(&error))),
            Err(_) => Err(failed("no answer in time")),
        },
        stop = stops.first() => Err(stopped(stop, "the name could not be looked up in time").into()),
    }
}

/// A ping on its way.
struct Course {
    /// For each packet sent: when, and how long its answer took.
    answers: Vec<(Instant, Option<Duration>)>,
    last_error: Option<String>,
}

enum News {
    Stop(Stop),
    Send,
    Received(io::Result<usize>),
    Over,
}

impl Course {
    /// Sends and listens until everything is answered or too late; gives what stopped it before.
    async fn run(&mut self, ping: &Ping, socket: &Socket, family: Family, token: &Token, stops: &Stops) -> Option<Stop> {
        let mut buffer = [0; 1024];
        let mut next_send = Instant::now();
        loop {
            let all_sent = self.answers.len() == ping.count as usize;
            if all_sent && self.answers.iter().all(|(_, answer)| answer.is_some()) {
                return None;
            }
            let over = self.answers.last().map_or(next_send, |(sent, _)| *sent) + ping.timeout;
            let news = tokio::select! {
                biased;
                stop = stops.first() => News::Stop(stop),
                received = socket.receive(&mut buffer) => News::Received(received),
                () = sleep_until(next_send), if !all_sent => News::Send,
                () = sleep_until(over), if all_sent => News::Over,
            };
            match news {
                News::Stop(stop) => return Some(stop),
                News::Over => return None,
                News::Send => {
                    let sequence = u16::try_from(self.answers.len()).unwrap_or(u16::MAX);
                    let packet = packet::request(family, sequence, token);
                    let now = Instant::now();
                    self.answers.push((now, None));
                    // After a delay of ours the next ones are not sent in a burst.
                    next_send = now + ping.interval;
                    if let Err(error) = socket.send(&packet) {
                        self.last_error = Some(said(&error));
                    }
                }
                News::Received(Ok(length)) => {
                    let now = Instant::now();
                    let sequence = packet::answered(family, &buffer[..length], token);
                    if let Some((sent, answer @ None)) = sequence.and_then(|sequence| self.answers.get_mut(usize::from(sequence)))
                        && now - *sent <= ping.timeout
                    {
                        *answer = Some(now - *sent);
                    }
                }
                News::Received(Err(error)) => {
                    self.last_error = Some(said(&error));
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    fn result(self, address: String, ping: &Ping) -> PingResult {
        let sent = self.answers.len();
        let times: Vec<_> = self.answers.iter().filter_map(|(_, answer)| *answer).map(|time| time.as_secs_f64() * 1000.0).collect();
        debug_assert!(sent <= ping.count as usize);
        PingResult {
            address,
            sent: u32::try_from(sent).unwrap_or(u32::MAX),
            received: u32::try_from(times.len()).unwrap_or(u32::MAX),
            loss_percent: if sent == 0 { 0.0 } else { rounded((sent - times.len()) as f64 * 100.0 / sent as f64) },
            round_trip: round_trip(&times),
            last_error: self.last_error,
        }
    }
}

fn round_trip(times_ms: &[f64]) -> Option<RoundTrip> {
    let (first, count) = (*times_ms.first()?, times_ms.len() as f64);
    let mean = times_ms.iter().sum::<f64>() / count;
    let variance = times_ms.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
    Some(RoundTrip {
        min_ms: rounded(times_ms.iter().copied().fold(first, f64::min)),
        avg_ms: rounded(mean),
        max_ms: rounded(times_ms.iter().copied().fold(first, f64::max)),
        mdev_ms: rounded(variance.sqrt()),
    })
}

/// To three digits: microseconds, which is as far as the clock means anything.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn shown(address: SocketAddr, peer: &Peer) -> String {
    match peer {
        Peer::LinkLocal(..) => peer.to_string(),
        Peer::Address(_) | Peer::Name(_) => address.ip().to_string(),
    }
}

/// What the system said, without its number.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_summed_up() {
        assert_eq!(round_trip(&[]), None);
        let expected = RoundTrip { min_ms: 1.0, avg_ms: 2.5, max_ms: 4.0, mdev_ms: 1.118 };
        assert_eq!(round_trip(&[2.0, 4.0, 1.0, 3.0]), Some(expected));
    }

    #[test]
    fn what_may_not_be_opened_says_what_to_enable() {
        let failure = not_open(Family::V4, Errno::ACCESS).failure.unwrap();
        assert_eq!(failure.code, ErrorCode::NotPermitted);
        assert!(failure.message.contains("net.ipv4.ping_group_range") && failure.message.contains("CAP_NET_RAW"));
        assert_eq!(not_open(Family::V6, Errno::AFNOSUPPORT).failure.unwrap().message, "the host has no IPv6");
    }
}
