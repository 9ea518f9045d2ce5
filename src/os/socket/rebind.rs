//! Makes the held sockets of a new list of listeners, when the unit files are read anew at a swap: takes over those
//! that are held already, and binds the others.

use std::os::fd::RawFd;
use std::rc::Rc;

use super::one::NOT_ASKED;
use super::{BindError, HeldSocket, Inherited, NamedSocket, addresses, hold};
use crate::config::{Address, Handover, Listener, SocketOptions};
use crate::os::warning::Warn;

/// Keeps each held socket that a listener of the same kind and address asks for, untouched; of several with one address
/// (ReusePort=, port 0) the first listener keeps the first. Binds the others, all or none, as `handover` says; what is kept
/// stays steered or shared as it was bound.
///
/// One for each listener, in their order, which is that of the fds, and what is held beside it (InterceptBind=). To give
/// the new list up, drop it; what it does not have any more is closed with the last list that has it.
///
/// # Errors
/// What could not be bound. Everything held before is still held.
pub fn rebind(
    held: &[NamedSocket],
    listeners: &[Listener],
    inherited: &Inherited,
    handover: Handover,
) -> Result<Vec<NamedSocket>, BindError> {
    let mut left_over = held.to_vec();
    let kept: Vec<Vec<Rc<HeldSocket>>> = listeners
        .iter()
        .map(|listener| {
            let Some(index) = left_over.iter().position(|held| is_for(held, listener)) else {
                return Vec::new();
            };
            let first = left_over.remove(index);
            let beside = left_over.extract_if(.., |held| held.is_beside && is_for(held, listener));
            std::iter::once(first).chain(beside.collect::<Vec<_>>()).map(|named| named.socket).collect()
        })
        .collect();
    let mut taken: Vec<RawFd> = held.iter().filter_map(|held| held.inherited).collect();
    let mut bound = Vec::new();
    for (listener, _) in listeners.iter().zip(&kept).filter(|(_, kept)| kept.is_empty()) {
        let socket = hold(&Rc::new(listener.clone()), inherited, &taken, handover)
            .map_err(|error| explain(error, listener, &left_over))?;
        taken.extend(socket.inherited);
        bound.push(socket);
    }
    // Nothing can fail from here on.
    let mut bound = bound.into_iter();
    let mut sockets = Vec::new();
    for (listener, kept) in listeners.iter().zip(kept) {
        let name = listener.name.clone();
        if let Some(socket) = kept.first() {
            warn_of_changes(socket, listener, handover);
        } else if let Some(mut socket) = bound.next() {
            socket.set_removes(listener.options.remove_on_stop);
            sockets.push(NamedSocket { name: name.clone(), socket: Rc::new(socket) });
        }
        sockets.extend(kept.into_iter().map(|socket| NamedSocket { name: name.clone(), socket }));
    }
    Ok(sockets)
}

/// Whether the listener asks for what this socket was bound for, or for where it is.
fn is_for(held: &HeldSocket, listener: &Listener) -> bool {
    let asked = &held.asked;
    let is_same_protocol = asked.options.protocol == listener.options.protocol;
    let is_same = asked.kind == listener.kind && asked.address == listener.address;
    is_same_protocol && (is_same || held.kind == listener.kind && addresses(listener).contains(&held.address))
}

fn warn_of_changes(held: &HeldSocket, listener: &Listener, handover: Handover) {
    let is_other = match handover {
        Handover::Steered => held.why_shared().as_deref() == Some(NOT_ASKED),
        Handover::Shared => held.is_steered(),
        Handover::StopFirst => false,
    };
    if is_other {
        Warn::Handover(&listener.place).because(&held.address);
    }
    let but_name = |options: &SocketOptions| SocketOptions { name: None, ..options.clone() };
    if held.inherited.is_none() && but_name(&held.asked.options) != but_name(&listener.options) {
        Warn::Options(&listener.place).because(&held.address);
    }
}

/// What is in the way may be a socket of ours that has to go first, and cannot while the server has it.
fn explain(error: BindError, listener: &Listener, left_over: &[NamedSocket]) -> BindError {
    let port = match &listener.address {
        Address::Port(port) => Some(*port),
        Address::Inet { address, .. } => Some(address.port()),
        _ => None,
    };
    let wanted = addresses(listener);
    let is_in_the_way =
        |held: &&NamedSocket| port.is_some() && held.port == port || wanted.contains(&held.address);
    match left_over.iter().find(is_in_the_way) {
        Some(held) if error.by_us => {
            let remedy = format!(
                "we hold {} {} until the server that has it is gone; for this change stop supervise and start it",
                held.kind, held.address
            );
            BindError { remedy, ..error }
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
