//! A notify socket as it goes over to the program that takes our place, with what waits in it.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use super::place::SocketFile;
use super::{NotifyAddress, NotifySocket};
use crate::os::saved::KeptFds;
use crate::os::sys::left::LeftFds;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedNotify {
    fd: RawFd,
    address: SavedAddress,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedAddress {
    File { path: String, inode: (u64, u64) },
    Abstract(String),
}

impl NotifySocket {
    pub fn save(&self, fds: &mut KeptFds) -> SavedNotify {
        let address = match &self.address {
            NotifyAddress::File(place) => {
                SavedAddress::File { path: place.path().to_owned(), inode: place.inode() }
            }
            NotifyAddress::Abstract(name) => SavedAddress::Abstract(name.clone()),
        };
        SavedNotify { fd: fds.keep(&self.fd), address }
    }

    /// # Errors
    /// A sentence: its fd is missing.
    pub fn from_saved(SavedNotify { fd, address }: SavedNotify, fds: &mut LeftFds) -> Result<Self, String> {
        let address = match address {
            SavedAddress::File { path, inode } => NotifyAddress::File(SocketFile::of(path, inode)),
            SavedAddress::Abstract(name) => NotifyAddress::Abstract(name),
        };
        Ok(Self { fd: fds.take(fd)?, address })
    }
}
