//! The supervisor's end of the conversation with the agent: what it is told, and what it reports.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::super::protocol::{Order, Report};
use super::super::tree::pause;

/// The supervisor's end of the conversation.
pub(super) struct Agent {
    socket: io::Stdin,
    unread: Vec<u8>,
    closed: bool,
}

impl Agent {
    pub(super) fn at_stdin() -> Self {
        Self { socket: io::stdin(), unread: Vec::new(), closed: false }
    }

    /// What has come and was not read as a line.
    pub(super) fn into_unread(self) -> Vec<u8> {
        self.unread
    }

    /// What to wait for. A closed socket is always ready, and would turn waiting into spinning.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.socket.as_fd())
    }

    /// An order that has come, as the grace it leaves. A closed socket orders a kill without grace. Does not block.
    pub(super) fn order(&mut self) -> Option<Duration> {
        if self.closed {
            return Some(Duration::ZERO);
        }
        if !self.unread.contains(&b'\n') {
            let socket = self.socket.as_fd();
            let mut fds = [PollFd::new(&socket, PollFlags::IN)];
            pause(&mut fds, Duration::ZERO);
            if fds[0].revents().is_empty() {
                return None;
            }
        }
        match self.line() {
            Ok(Some(line)) => {
                let order = serde_json::from_slice::<Order>(&line);
                Some(order.map_or(Duration::ZERO, |Order::Kill { grace_ms }| Duration::from_millis(grace_ms)))
            }
            Ok(None) | Err(_) => {
                self.closed = true;
                Some(Duration::ZERO)
            }
        }
    }

    /// What came with the first byte, which stays to be read: an agent of an earlier version begins with the line itself. Blocks.
    pub(super) fn stdin(&mut self) -> io::Result<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let mut first = [0; 1];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(self.socket.as_fd(), &mut [IoSliceMut::new(&mut first)], &mut with, RecvFlags::CMSG_CLOEXEC)
        })?;
        self.unread.extend_from_slice(&first[..received.bytes]);
        let mut stdin = None;
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                stdin = fds.next();
            }
        }
        Ok(stdin)
    }

    /// The next line; `None` at the end. Blocks.
    pub(super) fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            let mut buffer = [0; 16 * 1024];
            // Not through `Stdin`'s own buffer: `poll` would not know what is in it.
            match rustix::io::retry_on_intr(|| rustix::io::read(self.socket.as_fd(), &mut buffer))? {
                0 => return Ok(None),
                n => self.unread.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Reports. An agent that has gone does not hear it, which the next read will show.
    pub(super) fn tell(&self, report: Report) {
        let Ok(mut line) = serde_json::to_vec(&report) else { return };
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(self.socket.as_fd(), rest)) {
                Ok(n) => rest = &rest[n..],
                Err(_) => return,
            }
        }
    }
}
