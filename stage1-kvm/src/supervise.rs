//! The life of the supervisor of a microVM: what it waits for beside what every supervisor waits for, and how its pod is killed.
//!
//! The pod lives while the hypervisor does. A virtiofsd that ends leaves a guest whose volume does not answer, so it ends the
//! pod, too.

use crate::machine::{self, Machine};
use crate::report::Report;
use anyhow::{Context, Result};
use contract::text::HINT;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use supervisor::{End, Outcome, Place, Supervisor};

/// What to do when nobody knows why a guest has ended.
const ADVICE: &str = "look at the guest's console with `--debug`";

/// Until the pod is dead. The machine is gone when this returns.
pub(crate) fn supervise(place: &Place, mut supervisor: Supervisor<'_>, mut machine: Machine) -> Result<Outcome> {
    let mut report = Report::new(machine.report.try_clone().context("clone a pipe")?, &place.pod)?;
    let mut watch = Watch::of(&machine)?;
    loop {
        let turn = supervisor.turn(&watch.descriptors(&report))?;
        let happened: Vec<Watched> = turn.ready.into_iter().map(|at| watch.order(&report)[at]).collect();
        if happened.contains(&Watched::Report) {
            report.read()?;
        }
        if turn.kill {
            machine.kill();
        }
        if happened.contains(&Watched::Hypervisor) {
            watch.hypervisor = None;
            if supervisor.last_words()?.is_none() {
                let end = End::Lost(why(&mut machine, &mut report));
                machine.kill();
                return supervisor.finish(end);
            }
        } else if let Some(Watched::Server(at)) = happened.iter().find(|one| matches!(one, Watched::Server(_))) {
            watch.servers[*at] = None;
            let server = &mut machine.servers[*at];
            let how = machine::how_it_ended(&mut server.process);
            // One that ended by itself has said why.
            let said = report.reason().filter(|_| how.contains("exit code"));
            let said = said.map_or_else(String::new, |line| format!(": {line}"));
            // A guest that is over ends its servers.
            if supervisor.last_words()?.is_none() {
                supervisor.fail(format!("{} {how}{said}", server.name));
            }
        }
        if let Some(code) = supervisor.guest_over() {
            machine.kill();
            return supervisor.finish(End::Code(code));
        }
    }
}

/// Why the hypervisor ended, when the guest has not said that the pod is over.
fn why(machine: &mut Machine, report: &mut Report) -> String {
    let how = machine::how_it_ended(&mut machine.process);
    if how.starts_with("was killed") {
        return format!("the hypervisor {how}");
    }
    let reason = report.reason();
    let reason =
        reason.unwrap_or_else(|| "the guest ended before the pod did; its kernel may have panicked".to_owned());
    format!("{reason}{HINT}{ADVICE}")
}

/// Descriptors that only this stage has.
struct Watch {
    hypervisor: Option<OwnedFd>,
    servers: Vec<Option<OwnedFd>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    Report,
    Hypervisor,
    Server(usize),
}

impl Watch {
    fn of(machine: &Machine) -> Result<Self> {
        let pidfd = |child| machine::pidfd(child).context("open the pidfd of a child");
        let servers = machine.servers.iter().map(|server| pidfd(&server.process).map(Some));
        Ok(Self { hypervisor: Some(pidfd(&machine.process)?), servers: servers.collect::<Result<_>>()? })
    }

    fn all<'a>(&'a self, report: &'a Report) -> impl Iterator<Item = (Watched, BorrowedFd<'a>)> {
        let report = report.pipe().map(|pipe| (Watched::Report, pipe));
        let hypervisor = self.hypervisor.iter().map(|fd| (Watched::Hypervisor, fd.as_fd()));
        let servers = self.servers.iter().enumerate();
        let servers = servers.filter_map(|(at, fd)| Some((Watched::Server(at), fd.as_ref()?.as_fd())));
        report.into_iter().chain(hypervisor).chain(servers)
    }

    fn descriptors<'a>(&'a self, report: &'a Report) -> Vec<BorrowedFd<'a>> {
        self.all(report).map(|(_, fd)| fd).collect()
    }

    fn order(&self, report: &Report) -> Vec<Watched> {
        self.all(report).map(|(watched, _)| watched).collect()
    }
}
