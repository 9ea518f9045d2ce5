//! The table of all directives, put together from the rows with a setter and the keys that do nothing here.

use super::row::{Directive, Section, Support, bare};
use super::without::WITHOUT;
use super::{exec, service, socket};

/// The verdict on keys of systemd.exec(5) in [Socket].
const COMMANDS_OF_SOCKETS: Support =
    Support::NotHonoured("the commands of a socket run as supervise itself does; write it in [Service]");

/// Every directive, in the order of `--help`.
pub const DIRECTIVES: &[Directive] = &gather::<COUNT>();

/// The rows with a setter; those of SHARED are valid in [Socket] as well.
const ROWS: [&[Directive]; 2] = [service::ROWS, socket::ROWS];
const SHARED: [&[Directive]; 3] = [service::KILL, exec::ROWS, exec::LIMITS];

const COUNT: usize = count();

const fn count() -> usize {
    let mut count = ROWS[0].len() + ROWS[1].len();
    count += 2 * (SHARED[0].len() + SHARED[1].len() + SHARED[2].len());
    let mut group = 0;
    while group < WITHOUT.len() {
        count += WITHOUT[group].keys.len() * if WITHOUT[group].shared { 2 } else { 1 };
        group += 1;
    }
    count
}

const fn gather<const N: usize>() -> [Directive; N] {
    let mut all = [bare("", Section::Unit, COMMANDS_OF_SOCKETS); N];
    let mut at = 0;
    let mut list = 0;
    while list < ROWS.len() + SHARED.len() {
        let rows = if list < ROWS.len() { ROWS[list] } else { SHARED[list - ROWS.len()] };
        let mut index = 0;
        while index < rows.len() {
            all[at] = rows[index];
            at += 1;
            if list >= ROWS.len() {
                all[at] = bare(rows[index].key, Section::Socket, COMMANDS_OF_SOCKETS);
                at += 1;
            }
            index += 1;
        }
        list += 1;
    }
    let mut group = 0;
    while group < WITHOUT.len() {
        let keys = WITHOUT[group].keys;
        let mut index = 0;
        while index < keys.len() {
            all[at] = bare(keys[index], WITHOUT[group].section, WITHOUT[group].support);
            at += 1;
            if WITHOUT[group].shared {
                all[at] = bare(keys[index], Section::Socket, WITHOUT[group].support);
                at += 1;
            }
            index += 1;
        }
        group += 1;
    }
    assert!(at == N, "every row has its place");
    all
}
