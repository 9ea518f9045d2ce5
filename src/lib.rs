//! `supervise`, as a library for its own binary and tests. There is no stable API.
//!
//! # The map
//!
//! A pure core in a thin shell: `core` decides (facts in, orders out, time an argument), `os` does (one loop, one
//! poll), `config` is what the user asked for. The core is simulated in tests/sim; the same situations run with real
//! processes in tests/it.
//!
//! ```text
//! main.rs             parse, dispatch, exit status
//! cli.rs              the command line to a Config or a Verb; the options are made from the directives table
//!   cli/arguments.rs    options, their values and other words, split by lexopt
//!   cli/check.rs        check: its arguments; verdicts, and what would happen
//!   cli/help.rs         -h and --help
//!   cli/units.rs        run: its arguments, units and options after them
//!   cli/unknown.rs      a first word that is no verb, and what was meant
//!   cli/verbs.rs        the verbs' words, and exec's
//! units.rs            reads unit files and those beside them, for run, check and each swap
//! client.rs           the verbs: find an instance, one request, its answer
//!   client/wire.rs      lines of the control socket, as the client reads them
//!   client/render.rs    status and list for a person
//! config/             pure: text to Config, or errors with place, cause and remedy
//!   mod.rs              Config and all it holds, the defaults of the command line
//!   directives.rs       a Config that is being filled, directive by directive
//!                       in config/directives/: table.rs, THE table, made of service.rs, exec.rs, socket.rs and
//!                       without.rs (keys that do nothing here); row.rs: what a row is; values.rs: kinds of values that
//!                       many share; swap.rs: what decides a swap
//!   close.rs            checks and completes such a Config, from wherever it came: the rules that need several directives
//!   choice.rs           one word of several, and the nearest where it is none of them
//!   unit.rs             unit files to a Config, line by line
//!                       in config/unit/: pair.rs (which sockets are for which service), counts.rs (which lines
//!                       count), finish.rs (what systemd refuses, and makes of what is not written)
//!   address.rs          --listen and systemd's address grammar; kind.rs: the kinds of sockets, a row each
//!   command_line.rs     ExecStart= and its kin; the quoting of all values; $VAR at exec time
//!   exec.rs             one command: program, words, rights
//!   dialect.rs          Protocol=: what else than LISTEN_FDS a server is told
//!   environment.rs      -E, Environment=, environment files
//!   policy.rs           what the core decides by; launch.rs: what a process is started with; socket.rs: socket options
//!   instance.rs         name, control socket, colour: what is asked of supervise itself
//!   known.rs            how well-known servers take a socket: the fix for a command; in config/known/: programs.rs
//!                       (the table), servers.rs (what keeps them in the foreground, and of which of them two cannot
//!                       run), whole.rs (our whole line)
//!   number.rs           integers, sizes, limits, booleans
//!   placeholder.rs      {fd:NAME}, {port:NAME}, {addr:NAME}
//!   specifier.rs        names of units, %n and the like
//!   status.rs           lists of exit statuses and signals
//!   unit_file.rs        the grammar of a unit file: sections, assignments and their lines
//!   value.rs            time spans and signals
//! core/               pure, no unsafe
//!   mod.rs              Event, Action and the limits: the contract with the shell
//!   supervisor.rs       routes events; signals, datagrams, time
//!   service.rs          the state machine: read its essay first
//!   generation.rs       one generation: how far its start came, whether it lives, and the data of each state
//!   watch.rs            the state machine that observes generations by questions to the kernel. Read its essay for when one
//!                       is ready; in core/watch/: gate.rs (whether it is, by its Ready=), waiting.rs (when it is looked
//!                       at who waits on its sockets, and the hint), sight.rs (what was seen), health.rs (Ready=http:),
//!                       counts.rs (when its connections are counted, and whether it is stopped), traffic.rs (what a
//!                       count has shown)
//!   command.rs          the commands round the main one: ExecStartPre= ... ExecStopPost=
//!   start.rs            starting, the start limit, starts by connections
//!   swap.rs             a swap from its begin to its outcome: ready, promote, roll back
//!   end.rs              stopping a generation, its exit, what it leaves behind
//!   finish.rs           nothing is left of a generation: what comes next
//!   exit.rs             what the end of a main process means, by Type=
//!   failure.rs          why one could not be started
//!   restored.rs         orders are repeated to a new shell: the standing ones, after a kill also those without an answer
//!   slots.rs            which slot gets new connections, which are guarded
//!   drain.rs            a generation without the traffic may finish its connections; what its end cuts off
//!   reload.rs           the verb reload, RELOADING=1
//!   reread.rs           the files are read anew at a swap
//!   request.rs          the other verbs
//!   shutdown.rs         the end of everything
//!   early.rs            delays starts of servers that end cleanly before they wait on their sockets
//!   restart.rs          Restart=, delays, limits, clean or not: pure functions
//!   timers.rs           every deadline, computed from the state; why.rs: what each is for, and which goes first
//!   notify.rs           the text of a notification
//!   note.rs             the words of the log; in core/note/: swap.rs, socket.rs, bind.rs
//!   report.rs           the types of status and of the control socket
//!   status.rs           the snapshot for status
//! os/                 the shell, with all I/O: whatever can fail, block or surprise
//!   mod.rs              the order of one turn, and why; shell.rs: the loop that keeps it; in os/shell/:
//!                       open.rs (all that is needed before a server is started), configuration.rs (the one in force, and the
//!                       one that a swap has read anew), reread.rs, starter.rs (who started us is told), ask.rs (questions to the kernel or a server),
//!                       ended.rs (processes that have), woken.rs (events of a poll by source), reexec.rs (another program
//!                       takes our place), saved.rs (the whole state, for that), start.rs (processes of a generation), keeping.rs (the state is saved for the
//!                       keeper), recover.rs (we go on after a supervise that was killed)
//!   keeper.rs           the process that executes our program again where we are killed (unsafe); in os/keeper/: board.rs, the
//!                       page that it shares with us, kit.rs, its memory (both unsafe)
//!   saved.rs            what goes over to such a program: fds, what several refer to, moments. Each part is saved and restored in
//!                       cgroup/saved.rs, children/saved.rs, control/server/saved.rs, intercept/saved.rs, launch/saved.rs,
//!                       listeners/saved.rs, notify/saved.rs, socket/saved.rs, socket/group/saved.rs, socket/nodes/saved.rs
//!   listeners.rs        owns the held sockets; in os/listeners/: slots.rs (which are watched, and which gets new
//!                       connections), damages.rs (what servers do to them is repaired), rescue.rs (connections of a slot
//!                       without a server are moved), strangers.rs (others in our groups), paths.rs (inotify), queues.rs
//!                       (backlogs are restored), intercept.rs (the threads of InterceptBind=), families.rs (which
//!                       address families a port keeps)
//!   questions.rs        what the kernel and servers are asked; in os/questions/: traffic.rs (connections), health.rs
//!                       (Ready=http:), waiting.rs (Ready=auto, and the hint), silent.rs (a connection of ours that is
//!                       to be accepted)
//!   background.rs       --detach: the fork, and what waits in the parent (unsafe)
//!   begin.rs            what supervise does itself of what the standard library does before main
//!   own.rs              our pid and credentials, asked once
//!   outbox.rs           events and notes that these hand over to the shell
//!   tokens.rs           the token number of each source of the poll
//!   children.rs         living generations: pid, pidfd, notify socket; in os/children/: foreign.rs (processes of a supervise that was killed), interception.rs
//!                       (what InterceptBind= needs of one), kin.rs (whose a process is), queries.rs, remains.rs (what
//!                       is left of those that are gone), signals.rs
//!   cgroup.rs           one for each generation, where we may make some
//!   launch.rs           what is looked up anew for each process; in os/launch/: stdio.rs, environment_file.rs, glob.rs,
//!                       check.rs (before anything is bound), once.rs (commands of [Socket])
//!   diag.rs             what the kernel says about sockets; in os/diag/: netlink.rs (dumps), inet.rs (TCP, UDP),
//!                       local.rs (AF_UNIX), proc.rs, traffic.rs (which are in flight or idle)
//!   directories.rs      RuntimeDirectory= and its kin
//!   exec.rs             supervise exec: becomes COMMAND; fetch.rs: its request for sockets that a wrapper has closed
//!   spawn.rs            clone to execve (unsafe); in os/spawn/: plan.rs (what is to be started), prepared.rs (made
//!                       before the fork), environment.rs, report.rs (what the child says), failure.rs (the sentence
//!                       for it); and, unsafe: clone.rs (clone3), limits.rs, filter.rs (seccomp), status.rs (how the
//!                       child reports: in shared memory, or over a pipe)
//!   proc.rs             files of /proc/PID: the socket behind an fd, what an epoll has registered, fields
//!   reap.rs             waiting, groups, orphans; in os/reap/: foreign.rs (those of a supervise that was killed)
//!   relay.rs            what waits in a slot without a server is passed on, by a process of its own; in os/relay/:
//!                       streams.rs (its loop), link.rs (one connection), datagrams.rs
//!   probe.rs            Ready=http:, one GET; Ready=auto, one silent connection
//!   waiters.rs          which sockets processes wait on, as /proc shows it; in os/waiters/: call.rs (system calls),
//!                       files.rs (fds)
//!   signal.rs           signals to us, the terminal
//!   socket.rs           held sockets; in os/socket/: inet.rs, plan.rs (what those of a TCP or UDP address are made
//!                       from), local.rs (AF_UNIX; node.rs: its paths),
//!                       inherited.rs, options.rs (what is set on them), rebind.rs (units read anew), holder.rs (who is
//!                       in the way), error.rs; slots.rs: what the sockets of one address can do, each kind in its
//!                       own way: one.rs, one socket for all generations; group.rs, those of TCP and UDP, with
//!                       group/ready.rs (a slot is made ready for a generation), group/renew.rs (UDP: one for each
//!                       client), order.rs (the kernel's order of the members), program.rs (BPF) and restore.rs (what a server set is undone);
//!                       nodes.rs: those of AF_UNIX, nodes/hidden.rs their directory; beside.rs: one family of a port,
//!                       beside the socket of another; target.rs: the address where clients find a slot
//!   notify.rs           NOTIFY_SOCKET of a generation; in os/notify/: place.rs (its file); fd_store.rs: what it hands
//!                       us; manager.rs: ours, upwards
//!   control.rs          the control socket's place and name; in os/control/: server.rs, its clients
//!   intercept.rs        InterceptBind=: the thread that answers what a server binds; in os/intercept/: desk.rs (what the thread does), filter.rs (seccomp),
//!                       address.rs (what it wants), target.rs (its socket), answer.rs (whether it is ours), held.rs (ours),
//!                       epoll.rs (renews the registrations of its socket)
//!   instances.rs        where instances live, who answers; in os/instances/: others.rs (those of other users)
//!   snapshot.rs         what only the shell can add to a status
//!   host.rs             what specifiers ask of this machine and user
//!   unit_files.rs       the file, template and drop-ins of a UNIT
//!   users.rs            /etc/passwd and /etc/group
//!   within.rs           calls that may block for ever, made by a thread
//!   warning.rs          the texts of what the shell logs by itself
//!   logger.rs           our lines on stderr
//!   sys.rs              system calls that nix lacks (unsafe); in os/sys/, unsafe as well: seccomp.rs (those of
//!                       os/intercept), attribute.rs (extended attributes), left.rs (fds of the program before us), memory.rs (given back at rest),
//!                       options.rs (of sockets)
//! ```
//!
//! Imports go one way: `main -> cli, client, os, units`; `units -> cli, config, os`;
//! `cli -> client, config, core::Request`; `client -> config, core::Request, core::Reply, core::report, os::instances, os::sys`;
//! `os -> core, config`; `core -> config`; `config -> std`. Within a layer no files import each other in a circle: a
//! file uses those of the folder with its name, which may use it as a part uses its whole.
//! tests/it/tidy/imports.rs keeps this true; tests/it/tidy.rs keeps this map complete, and sees to it that no two files
//! define a type of one name.
//!
//! # Where do I change ...
//!
//! CONTRIBUTING.md goes through all files of six of these, one after the other.
//!
//! | change | file |
//! |---|---|
//! | support one more directive or flag | a field in `config/policy.rs`, `launch.rs` or `socket.rs`, a row in `config/directives/service.rs`, `exec.rs` or `socket.rs` |
//! | when, how soon and how often it restarts | `core/restart.rs` |
//! | what a signal to us means | `core/supervisor.rs` (and the list of signals in `os/signal.rs`) |
//! | when a generation is ready | `core/watch/`; what the kernel is asked for it: `os/waiters.rs`, `os/probe.rs` |
//! | swap, rollback | `core/swap.rs` |
//! | who gets new connections, and when the old one may go | `core/slots.rs`, `core/watch/counts.rs`, `core/drain.rs` |
//! | how a connection is steered | `os/socket/group.rs` (TCP, UDP), `os/socket/nodes.rs` (AF_UNIX) |
//! | what is watched, repaired and passed on of the held sockets | `os/listeners.rs` and its folder |
//! | what the kernel and servers are asked | `os/questions.rs` and its folder |
//! | the words of a message | `core/note.rs`; of a warning of the shell `os/warning.rs` |
//! | a kind of socket | a row in `config/kind.rs`, a file in `os/socket/` and an arm in `os/socket.rs` |
//! | a socket option | `config/directives/socket.rs`, `os/socket.rs` |
//! | what the server sees at its start | `os/launch.rs`, `os/spawn/environment.rs`, `os/spawn.rs` |
//! | a verb | `cli.rs` and its folder, `core::Request`, `core/request.rs`, `client.rs` |
//! | what systemd does with a unit file | `config/unit.rs`, `config/unit/finish.rs` |
//! | a rule that needs several directives | `config/close.rs` |
//! | a source of events | a variant of `core::Event`, a token in `os/tokens.rs`, its place in `os/shell.rs` |

pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod os;
pub mod units;
