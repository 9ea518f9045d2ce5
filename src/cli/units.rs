//! Parses the arguments of `supervise run UNIT...`: the names of the units, and the options that are applied after
//! their files (`check` has the same).

use std::ffi::OsString;
use std::path::PathBuf;

use super::arguments::{Matches, Others, split};
use super::{
    Parsed, RunArgs, UnitArgs, apply, color, control, given_name, informed, place, run_options, settings,
    verbosity,
};
use crate::config::directives::Draft;
use crate::config::{Config, Error, Instance, Problem};

/// `supervise run [OPTIONS] UNIT...`
pub(super) fn read(words: &[String], command: Option<&Vec<OsString>>) -> Result<Parsed, Error> {
    let matches = split(words, &run_options(), Others::Any, "supervise run")?;
    if let Some(parsed) = informed(&matches) {
        return Ok(parsed);
    }
    if command.is_some() {
        let problem =
            Problem::new("a unit has its command in ExecStart=", "leave out `run`, or all from -- on");
        return Err(problem.at("supervise run"));
    }
    let units = unit_args(&matches, "run")?;
    let instance =
        Instance { name: given_name(&matches)?, control: control(&matches)?, detach: matches.has("detach") };
    let (verbosity, color) = (verbosity(&matches), color(&matches)?);
    let (config, warnings) = (Config::for_units(), Vec::new());
    Ok(Parsed::Run(Box::new(RunArgs { config, units: Some(units), instance, verbosity, color, warnings })))
}

/// The unit files and settings of `run` and `check`. An invalid option is an error here, with status 2.
pub(super) fn unit_args(matches: &Matches, verb: &str) -> Result<UnitArgs, Error> {
    let here = format!("supervise {verb}");
    if let Some(text) = matches.last("listen") {
        let problem =
            Problem::new("a .socket file says which sockets a unit holds", "write ListenStream= into it");
        return Err(problem.at(place("--listen", text)));
    }
    for flag in ["datagram", "seqpacket"] {
        if matches.has(flag) {
            let problem =
                Problem::new("this changes --listen alone, which a unit does not have", "leave it out");
            return Err(problem.at(format!("--{flag}")));
        }
    }
    if let Some(text) = matches.last("fdname") {
        let problem = Problem::new(
            "this names sockets of --listen alone",
            "write FileDescriptorName= into a .socket file",
        );
        return Err(problem.at(place("--fdname", text)));
    }
    let paths: Vec<PathBuf> = matches.others.iter().map(PathBuf::from).collect();
    if paths.is_empty() {
        let remedy = format!("name the files: {here} web.socket web.service");
        return Err(Problem::new("no unit file", remedy).at(here));
    }
    let settings = settings(matches)?;
    apply(&settings, &mut Draft::new(Config::for_units()))?;
    Ok(UnitArgs { paths, settings, strict: matches.has("strict") })
}
