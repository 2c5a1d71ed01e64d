//! The newest rows in a Redis or Valkey server, which several servers may share.
//!
//! The fence is a script, so that reading the old row and writing the new one are one step there. A row says its times in
//! its first bytes, in the order in which bytes compare. Rows that hold for a time are removed by the server itself. How
//! durable an answered write is, is as the server is configured (`appendfsync`); what was *pushed* is in the journal of the
//! server that took it all the same.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, Script, ServerErrorKind, cmd};

use super::{OnlineStore, Put, Waiting, within};
use crate::FeaturesError;
use crate::moment::Clock;

/// Compares the times byte by byte: Lua's own comparison of texts follows the locale, its numbers have 53 bits.
const FENCE: &str = r"
local kept = redis.call('GETRANGE', KEYS[1], 0, 16)
if #kept == 17 and string.byte(kept, 1) == string.byte(ARGV[1], 1) then
  for at = 2, 17 do
    local new, old = string.byte(ARGV[1], at), string.byte(kept, at)
    if new > old then break end
    if new < old then return 0 end
  end
end
if ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
";

/// Rows of one pipeline: a server shares its time among clients between commands, not within a reply's memory.
const PIPELINE_ROWS: usize = 512;
/// Keys that are read without asking how long their rows are: 64 MB at most.
const UNMEASURED_KEYS: usize = 64;
/// How long the server may take for one command, and to be connected to.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A row stays a minute longer than it holds at least, so that clocks that differ a little take nothing away early.
const KEPT_LONGER_MS: i64 = 60_000;

/// The engine `redis`.
pub struct RedisOnline {
    connection: ConnectionManager,
    fence: Script,
    prefix: Vec<u8>,
    clock: Clock,
    place: String,
}

impl RedisOnline {
    /// Connects to the server at `url`. All its keys begin with `prefix`: projects that share a server have different
    /// ones.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(
        url: &str,
        password: Option<&str>,
        prefix: &str,
        clock: Clock,
    ) -> Result<RedisOnline, FeaturesError> {
        let mut info = url.into_connection_info()?;
        if let Some(password) = password {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        // Without the password, which may change: whoever has another one reads the same.
        let of = format!("{}\0{}\0{prefix}", info.addr(), info.redis_settings().db());
        let place = format!("redis {:08x}", crc32fast::hash(of.as_bytes()));
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(TIMEOUT))
            .set_connection_timeout(Some(TIMEOUT))
            .set_number_of_retries(2);
        let mut connection = ConnectionManager::new_with_config(Client::open(info)?, config).await?;
        let fence = Script::new(FENCE);
        fence.prepare_invoke().load_async(&mut connection).await?;
        Ok(RedisOnline { connection, fence, prefix: prefix.as_bytes().to_vec(), clock, place })
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), key].concat()
    }

    /// How many bytes the rows of these keys have.
    async fn bytes(&self, keys: &[Vec<u8>]) -> Result<usize, FeaturesError> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("STRLEN").arg(self.key(key));
        }
        let lengths: Vec<usize> = pipeline.query_async(&mut self.connection.clone()).await?;
        Ok(lengths.into_iter().sum())
    }

    async fn write_some(&self, puts: &[Put]) -> Result<usize, FeaturesError> {
        let now = (self.clock)();
        let mut pipeline = Pipeline::with_capacity(puts.len());
        for put in puts {
            let left =
                put.until.map(|until| (until.0.saturating_sub(now.0) / 1_000).max(0).saturating_add(KEPT_LONGER_MS));
            // Servers count from 1970 in signed 64 bits, and refuse what is beyond.
            let left = left.map_or(String::new(), |left| left.min(1 << 50).to_string());
            let mut command = cmd("EVALSHA");
            command.arg(self.fence.get_hash()).arg(1).arg(self.key(&put.key)).arg(put.row.as_slice()).arg(left);
            pipeline.add_command(command);
        }
        let mut connection = self.connection.clone();
        let taken: Result<Vec<usize>, RedisError> = pipeline.query_async(&mut connection).await;
        let taken = match taken {
            // The server was restarted, and forgot the script.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.fence.prepare_invoke().load_async(&mut connection).await?;
                pipeline.query_async(&mut connection).await?
            }
            other => other?,
        };
        Ok(taken.into_iter().sum())
    }
}

impl OnlineStore for RedisOnline {
    fn engine(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn read<'a>(&'a self, keys: &'a [Vec<u8>], most_bytes: usize) -> Waiting<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let mut rows = Vec::with_capacity(keys.len());
            let mut bytes = 0;
            for keys in keys.chunks(PIPELINE_ROWS) {
                if keys.len() > UNMEASURED_KEYS {
                    within(bytes + self.bytes(keys).await?, most_bytes)?;
                }
                let mut command = cmd("MGET");
                for key in keys {
                    command.arg(self.key(key));
                }
                let found: Vec<Option<Vec<u8>>> = command.query_async(&mut self.connection.clone()).await?;
                bytes += found.iter().flatten().map(Vec::len).sum::<usize>();
                within(bytes, most_bytes)?;
                rows.extend(found);
            }
            Ok(rows)
        })
    }

    fn write(&self, puts: Vec<Put>) -> Waiting<'_, usize> {
        Box::pin(async move {
            let mut taken = 0;
            for puts in puts.chunks(PIPELINE_ROWS) {
                taken += self.write_some(puts).await?;
            }
            Ok(taken)
        })
    }
}
