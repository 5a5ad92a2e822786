//! Remembers the sockets of each service's proxy beside the control socket, so that a daemon sees that a proxy was
//! restarted while none ran. Losing the file costs no more than that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The sockets as they were last seen.
#[derive(Debug)]
pub(super) struct Sockets {
    path: PathBuf,
    known: BTreeMap<SocketAddr, BTreeSet<u64>>,
}

impl Sockets {
    /// Reads the file that belongs to a control socket, if there is one.
    pub(super) fn open(control: &Path) -> Self {
        let mut path = control.as_os_str().to_owned();
        path.push(".proxies");
        let path = PathBuf::from(path);
        let known = fs::read_to_string(&path).unwrap_or_default().lines().filter_map(parse).collect();
        Self { path, known }
    }

    /// The sockets of a service when there were some last.
    pub(super) fn inodes(&self, service: SocketAddr) -> BTreeSet<u64> {
        self.known.get(&service).cloned().unwrap_or_default()
    }

    /// A service's proxy has these sockets now.
    pub(super) fn set(&mut self, service: SocketAddr, inodes: &BTreeSet<u64>) {
        if self.known.insert(service, inodes.clone()).as_ref() == Some(inodes) {
            return;
        }
        let line = |(service, inodes): (&SocketAddr, &BTreeSet<u64>)| {
            let inodes = inodes.iter().map(u64::to_string).collect::<Vec<_>>();
            format!("{service} {}\n", inodes.join(" "))
        };
        let text = self.known.iter().map(line).collect::<String>();
        // Written aside, so that no daemon ever reads half of it.
        let aside = self.path.with_extension("new");
        if let Err(error) = fs::write(&aside, text).and_then(|()| fs::rename(&aside, &self.path)) {
            log::warn!("remember the proxies' sockets in {}: {error}", self.path.display());
        }
    }
}

fn parse(line: &str) -> Option<(SocketAddr, BTreeSet<u64>)> {
    let (service, inodes) = line.split_once(' ')?;
    let inodes = inodes.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((service.parse().ok()?, inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_knows_the_sockets_of_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control.sock");
        let (v4, v6) = ("192.0.2.10:5060".parse().unwrap(), "[2001:db8::10]:5060".parse().unwrap());
        let mut sockets = Sockets::open(&control);
        assert!(sockets.inodes(v4).is_empty());
        sockets.set(v4, &[7].into());
        sockets.set(v6, &[8, 9].into());
        sockets.set(v4, &[10].into());
        let sockets = Sockets::open(&control);
        assert_eq!((sockets.inodes(v4), sockets.inodes(v6)), ([10].into(), [8, 9].into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_none_is_as_good_as_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control.sock");
        fs::write(folder.path().join("control.sock.proxies"), "nonsense\n\n192.0.2.10:5060 x\n192.0.2.11:5060 7\n")
            .unwrap();
        let sockets = Sockets::open(&control);
        assert!(sockets.inodes("192.0.2.10:5060".parse().unwrap()).is_empty());
        assert_eq!(sockets.inodes("192.0.2.11:5060".parse().unwrap()), [7].into());
    }
}
