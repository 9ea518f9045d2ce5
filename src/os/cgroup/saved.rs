//! The cgroups as they go over to the program that takes our place, which opens their directories anew.

use std::cell::OnceCell;
use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CgroupDirectory, Cgroups, EVENTS, OwnCgroup, entry};
use crate::core::GenerationId;
use crate::os::saved;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::os) struct SavedCgroups {
    directories: Vec<SavedDirectory>,
    made: u32,
    is_off: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDirectory {
    #[serde(with = "saved::path")]
    path: PathBuf,
    name: (u32, u32),
    generation: GenerationId,
    is_over: bool,
    is_fresh: bool,
    is_spoiled: bool,
}

impl Cgroups {
    pub(in crate::os) fn save(&self) -> SavedCgroups {
        let directory = |one: &CgroupDirectory| SavedDirectory {
            path: one.path.clone(),
            name: one.name,
            generation: one.generation,
            is_over: one.is_over,
            is_fresh: one.is_fresh,
            is_spoiled: one.is_spoiled,
        };
        SavedCgroups {
            directories: self.directories.iter().map(directory).collect(),
            made: self.made,
            is_off: self.is_off,
        }
    }

    /// One whose directory is gone is left out.
    pub(in crate::os) fn from_saved(saved: SavedCgroups) -> Self {
        let opened = |one: SavedDirectory| {
            let SavedDirectory { path, name, generation, is_over, is_fresh, is_spoiled } = one;
            let events = if is_fresh { None } else { File::open(path.join(EVENTS)).ok() };
            // As at a start: where nobody can see whether it is empty, no other process begins in it.
            let is_spoiled = is_spoiled || (events.is_none() && !is_fresh);
            let entry = entry(&path).ok()?;
            Some(CgroupDirectory { path, entry, events, name, generation, is_over, is_fresh, is_spoiled })
        };
        let directories: Vec<_> = saved.directories.into_iter().filter_map(opened).collect();
        let place = OnceCell::new();
        if !directories.is_empty() {
            place.get_or_init(OwnCgroup::find);
        }
        Self { place, directories, made: saved.made, is_off: saved.is_off, has_swept: true, untidied: None }
    }
}
