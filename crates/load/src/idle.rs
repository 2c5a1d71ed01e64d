//! Connections that are held open and carry nothing: what a server has most of.

use std::io::{self, Write};
use std::net::TcpStream;

use tokio::net::TcpStream as AsyncTcpStream;
use tokio::task::JoinSet;

use crate::report::IdleReport;
use crate::target::Target;
use crate::{Idle, IdleKind, LoadError, Options};

/// Connections being opened at one time: below the shortest accept queue in use, 128.
const OPENING_MAX: usize = 100;

/// Held until dropped.
pub(crate) struct IdleConnections {
    wanted: usize,
    opened: Vec<TcpStream>,
}

impl IdleConnections {
    pub(crate) fn open(idle: Idle, target: &Target, options: &Options) -> Result<Self, LoadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = target.address;
        let timeout = options.timeout;
        let streams = runtime.block_on(async {
            let mut opening = JoinSet::new();
            let mut streams = Vec::with_capacity(idle.connections);
            let mut asked = 0;
            loop {
                while asked < idle.connections && opening.len() < OPENING_MAX {
                    opening.spawn(tokio::time::timeout(timeout, AsyncTcpStream::connect(address)));
                    asked += 1;
                }
                match opening.join_next().await {
                    Some(Ok(Ok(Ok(stream)))) => streams.push(stream),
                    // A server may refuse connections beyond its limit: the report says how many.
                    Some(_) => {}
                    None => break,
                }
            }
            streams.into_iter().map(AsyncTcpStream::into_std).collect::<io::Result<Vec<_>>>()
        })?;
        let mut opened = streams;
        if idle.kind == IdleKind::PartialHead {
            let head = format!("POST {} HTTP/1.1\r\nHost: {}\r\nX-Slow: ", target.path(), target.host);
            // A connection that has been closed already shows at the end.
            for stream in &mut opened {
                let _ = stream.write(head.as_bytes());
            }
        }
        Ok(Self { wanted: idle.connections, opened })
    }

    /// How many the server still holds.
    pub(crate) fn report(&self) -> IdleReport {
        let open = |stream: &&TcpStream| {
            let mut byte = [0];
            matches!(stream.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        };
        IdleReport {
            connections_wanted: self.wanted,
            connections_opened: self.opened.len(),
            connections_open_at_end: self.opened.iter().filter(open).count(),
        }
    }
}
