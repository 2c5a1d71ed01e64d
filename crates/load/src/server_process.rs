//! Processor time and memory of the server's process, as the Linux kernel counts them.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::{LoadError, ServerSampling};

/// Samples between two looks for new descendants: a walk of `/proc` is dear beside one read of it.
const WALK_EVERY: u32 = 8;

/// One look at the process, or the tree of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) cpu_s: f64,
    pub(crate) rss_bytes: u64,
}

pub(crate) struct ServerProcess {
    sampling: ServerSampling,
    descendants: Vec<u32>,
    samples: u32,
}

impl ServerProcess {
    pub(crate) fn find(sampling: ServerSampling) -> Result<Self, LoadError> {
        let mut process = Self { sampling, descendants: Vec::new(), samples: 0 };
        match process.sample() {
            Ok(_) => Ok(process),
            Err(source) => Err(LoadError::ServerProcess { pid: sampling.pid, source }),
        }
    }

    /// Ticks are 10 ms on every Linux in use, so short windows are coarse.
    ///
    /// Memory of a tree is the sum over its processes; pages they share are counted in each.
    pub(crate) fn sample(&mut self) -> io::Result<Sample> {
        let tree = self.sampling.descendants;
        let mut sum = sample_of(&read(self.sampling.pid)?, tree);
        if tree {
            if self.samples.is_multiple_of(WALK_EVERY) {
                self.descendants = descendants(self.sampling.pid);
            }
            self.samples += 1;
            // One that has ended since is in its parent's count of waited-for children.
            for stat in self.descendants.iter().filter_map(|pid| read(*pid).ok()) {
                let one = sample_of(&stat, true);
                sum.cpu_s += one.cpu_s;
                sum.rss_bytes += one.rss_bytes;
            }
        }
        Ok(sum)
    }
}

/// Fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    waited_for_ticks: u64,
    rss_pages: u64,
}

fn read(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its stat file has another shape"))
}

fn parse(stat: &str) -> Option<Stat> {
    // The command's name stands in parentheses and may hold any character, parentheses included.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // `fields` begins with the third field of the manual page.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        own_ticks: field(14)? + field(15)?,
        waited_for_ticks: field(16)? + field(17)?,
        rss_pages: field(24)?,
    })
}

fn sample_of(stat: &Stat, tree: bool) -> Sample {
    let ticks = stat.own_ticks + if tree { stat.waited_for_ticks } else { 0 };
    Sample {
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_bytes: stat.rss_pages * rustix::param::page_size() as u64,
    }
}

fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, read(pid).ok()?))) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    // Each child list is taken once, so a walk over changing processes still ends.
    while let Some(pid) = open.pop() {
        let next = children.remove(&pid).unwrap_or_default();
        found.extend_from_slice(&next);
        open.extend(next);
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let rest = "S 41 1 1 0 -1 4194304 100 0 0 0 7 5 30 12 20 0 1 0 121260 3133440 358 184467";
        let expected = Stat { parent: 41, own_ticks: 12, waited_for_ticks: 42, rss_pages: 358 };
        for name in ["cat", "a) S 1 (b", "x y z", ""] {
            assert_eq!(parse(&format!("42 ({name}) {rest}")), Some(expected), "{name:?}");
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse("42 (cat) S 1"), None);
    }

    #[test]
    fn a_started_process_is_among_the_descendants_and_an_absent_one_is_an_error() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let found = descendants(std::process::id());
        let pid = child.id();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid));
        assert!(ServerProcess::find(ServerSampling { pid, descendants: false }).is_err());
        let sampling = ServerSampling { pid: std::process::id(), descendants: true };
        assert!(ServerProcess::find(sampling).unwrap().sample().unwrap().rss_bytes > 0);
    }
}
