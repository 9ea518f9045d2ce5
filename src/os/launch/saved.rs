//! A launcher as it goes over to the program that takes our place.

use std::ffi::OsString;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Launcher;
use crate::config::{Launch, Span};
use crate::os::saved::Shared;
use crate::os::socket::{HeldSocket, SavedNames};

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLauncher {
    launch: Launch,
    directory: Option<OsString>,
    watchdog: Span,
    passes_sockets: bool,
    sockets: SavedNames,
}

impl Launcher {
    pub fn save(&self, sockets: &mut Shared<HeldSocket>) -> SavedLauncher {
        SavedLauncher {
            launch: self.launch.clone(),
            directory: self.directory.clone().map(OsString::from),
            watchdog: self.watchdog,
            passes_sockets: self.passes_sockets,
            sockets: SavedNames::of(&self.sockets, sockets),
        }
    }

    /// # Errors
    /// A sentence: it has a socket that is not in the list.
    pub fn from_saved(saved: SavedLauncher, sockets: &[Rc<HeldSocket>]) -> Result<Self, String> {
        let SavedLauncher { launch, directory, watchdog, passes_sockets, sockets: names } = saved;
        let directory = directory.map(Into::into);
        Ok(Self { launch, directory, watchdog, passes_sockets, sockets: names.sockets(sockets)? })
    }
}
