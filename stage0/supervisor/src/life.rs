//! The rules of a supervisor, without any system call: what follows from an event of stage2, a request of a client, a signal and
//! the time. Inputs come as method calls, what is to be done as a list of [`Effect`]s.

use crate::apps::Apps;
pub use crate::apps::Now;
use contract::channel::{Command, Event};
use contract::control::{Exec, Reply, Request};
use contract::exit;
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::AppEnd;
use contract::text::HINT;
use std::collections::BTreeMap;

/// Names a connection of `control.sock`, and the session that it may open. Never 0.
pub type ClientId = u32;

/// A pod that was told to stop gets its longest grace time, and this for stage2 and the guest.
const STOP_MARGIN_MILLIS: u64 = 10_000;
/// Readers of the output of a pod that has ended may keep it waiting so long.
const DRAIN_MILLIS_MAX: u64 = 5_000;
/// What the kernel kills the processes of a PID namespace by, and a supervisor its pod.
const SIGKILL: u8 = 9;
/// A grace time beyond this is as good as none.
const GRACE_MILLIS_MAX: u64 = 30 * 86_400_000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to stage2.
    Send(Command),
    /// Send this to stage2 as the start of this client's session, with the descriptors that came with its request.
    Open(ClientId, Exec),
    /// The client's terminal has this size (rows, columns).
    Resize(ClientId, u16, u16),
    /// Tell the client that its process runs, with the terminal if it has one.
    Started(ClientId),
    /// Tell the client how its process ended, after all of its output, and close the connection.
    Exited(ClientId, AppEnd),
    /// Reply to the client.
    Reply(ClientId, Reply),
    /// Close the connection, behind its replies.
    Close(ClientId),
    /// Write `status/NAME`.
    Record(AppName),
    /// Nobody takes the output: drop it.
    DropOutput,
    /// Kill everything in the pod.
    Kill,
}

/// How the pod came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// stage2 ended the pod with this code.
    Code(u8),
    /// PID 1 of the pod was killed by this signal.
    Signal(u8),
    /// The pod is gone with all that it is made of, for this reason.
    Lost(String),
}

/// What `pod run` tells its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub exit: u8,
    /// Why apps could not be started, and why the pod ended if its apps did not end it.
    pub messages: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Session {
    /// For the start of its app.
    Waits(Exec),
    Runs,
}

/// Everything that a supervisor remembers of its pod.
#[derive(Debug)]
pub struct Life {
    apps: Apps,
    grace_millis_max: u64,
    sessions: BTreeMap<ClientId, Session>,
    /// Of a guest: it speaks before this.
    boot_by: Option<u64>,
    guest: bool,
    stops: u32,
    kill_at: Option<u64>,
    /// Output of a stopped pod whose apps have ended is dropped then.
    drop_output_at: Option<u64>,
    /// stage2 in the guest ended the pod with this code; its output may be waited for until then.
    ended: Option<(u8, u64)>,
    /// What ended the pod, if that was not its apps: the exit code and the cause. The first one is the true one.
    verdict: Option<(Option<u8>, String)>,
}

impl Life {
    /// A pod that was just started. A guest has to speak for the first time within `boot_millis`.
    pub fn new(pod: &Pod, boot_millis: Option<u64>, now: Now) -> Self {
        Self {
            apps: Apps::new(pod),
            grace_millis_max: pod.apps.iter().map(|app| app.stop.grace_millis).max().unwrap_or(0),
            sessions: BTreeMap::new(),
            boot_by: boot_millis.map(|millis| now.millis.saturating_add(millis)),
            guest: boot_millis.is_some(),
            stops: 0,
            kill_at: None,
            drop_output_at: None,
            ended: None,
            verdict: None,
        }
    }

    /// How the apps are.
    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    /// stage2 said something. An error is a law that it broke; it ends the pod.
    pub fn event(&mut self, event: Event, now: Now) -> Result<Vec<Effect>, String> {
        if self.ended.is_some() {
            return Ok(Vec::new()); // Whatever speaks now is not stage2.
        }
        let unknown =
            |what: &str, app: &AppName| format!("stage2 reports {what} of app `{app}`, which the pod has not");
        match event {
            Event::Started { app } => {
                if !self.apps.started(&app, now) {
                    return Err(unknown("the start", &app));
                }
                Ok(self.open_waiting(&app))
            }
            Event::Ended { app, end, again } => {
                if !self.apps.ended(&app, end, again, now) {
                    return Err(unknown("the end", &app));
                }
                if self.stops > 0 && self.guest && self.apps.all_ended() {
                    self.drop_output_at.get_or_insert(now.millis + DRAIN_MILLIS_MAX);
                }
                Ok(if again { Vec::new() } else { self.refuse_waiting(&app) })
            }
            Event::Ready { app } if self.apps.ready(&app) => Ok(Vec::new()),
            Event::Ready { app } => Err(unknown("the readiness", &app)),
            Event::ExecStarted { session } => Ok(self.running(session).map(Effect::Started).into_iter().collect()),
            Event::ExecEnded { session, end } => {
                let runs = self.running(session).is_some();
                self.sessions.remove(&session);
                Ok(runs.then_some(Effect::Exited(session, end)).into_iter().collect())
            }
            Event::Failed { message } => {
                self.blame(None, message);
                Ok(Vec::new())
            }
            Event::Booted | Event::PodEnded { .. } if !self.guest => Err("stage2 sent an event of a guest".to_owned()),
            Event::Booted => {
                self.boot_by = None;
                Ok(Vec::new())
            }
            Event::PodEnded { exit } => {
                (self.boot_by, self.kill_at) = (None, None);
                self.ended = Some((exit, now.millis + DRAIN_MILLIS_MAX));
                Ok(Vec::new())
            }
        }
    }

    fn running(&self, client: ClientId) -> Option<ClientId> {
        (self.sessions.get(&client) == Some(&Session::Runs)).then_some(client)
    }

    fn waiting(&self, app: &AppName) -> Vec<ClientId> {
        let waits = |session: &Session| matches!(session, Session::Waits(exec) if exec.app == *app);
        self.sessions.iter().filter(|(_, session)| waits(session)).map(|(client, _)| *client).collect()
    }

    fn open_waiting(&mut self, app: &AppName) -> Vec<Effect> {
        let mut effects = Vec::new();
        for client in self.waiting(app) {
            if let Some(Session::Waits(exec)) = self.sessions.insert(client, Session::Runs) {
                effects.push(Effect::Open(client, exec));
            }
        }
        effects
    }

    fn refuse_waiting(&mut self, app: &AppName) -> Vec<Effect> {
        let waiting = self.waiting(app);
        waiting.iter().for_each(|client| drop(self.sessions.remove(client)));
        waiting.into_iter().flat_map(|client| refuse(client, not_running(app))).collect()
    }

    /// A client asked for something; `fds` descriptors came with it.
    pub fn request(&mut self, client: ClientId, request: Request, fds: usize, now: Now) -> Vec<Effect> {
        let session = self.sessions.get_mut(&client);
        match (request, session) {
            (Request::Status, None) => {
                let reply = Reply::Status { apps: self.apps.statuses(), ready: self.apps.all_ready() };
                vec![Effect::Reply(client, reply), Effect::Close(client)]
            }
            (Request::Stop { grace_millis }, None) => {
                let mut effects = self.stop(grace_millis, now);
                effects.extend([Effect::Reply(client, Reply::Accepted), Effect::Close(client)]);
                effects
            }
            (Request::Exec(exec), None) => self.exec(client, exec, fds),
            (Request::Signal { signal }, Some(Session::Runs)) => {
                vec![Effect::Send(Command::ExecSignal { session: client, signal })]
            }
            (Request::Signal { signal }, Some(Session::Waits(_))) => {
                self.sessions.remove(&client);
                vec![Effect::Exited(client, AppEnd::Signal(u8::try_from(signal).unwrap_or(0)))]
            }
            (Request::Resize { rows, columns }, Some(Session::Runs)) => vec![Effect::Resize(client, rows, columns)],
            (Request::Resize { rows, columns }, Some(Session::Waits(exec))) => {
                exec.tty = exec.tty.map(|_| (rows, columns));
                Vec::new()
            }
            (Request::Signal { .. } | Request::Resize { .. }, None) => {
                refuse(client, "this connection has no session".to_owned())
            }
            // The session goes on.
            (Request::Status | Request::Stop { .. } | Request::Exec(_), Some(_)) => {
                let message = "this connection has a session already".to_owned();
                vec![Effect::Reply(client, Reply::Refused { message })]
            }
        }
    }

    fn exec(&mut self, client: ClientId, exec: Exec, fds: usize) -> Vec<Effect> {
        let wanted = if exec.tty.is_some() { 0 } else { 3 };
        if fds != wanted {
            return refuse(client, format!("the request carries {fds} descriptors instead of {wanted}"));
        }
        match self.apps.is_alive(&exec.app) {
            None => refuse(client, format!("the pod has no app `{}`", exec.app)),
            Some(true) => {
                self.sessions.insert(client, Session::Runs);
                vec![Effect::Open(client, exec)]
            }
            Some(false) if self.apps.is_over(&exec.app) => refuse(client, not_running(&exec.app)),
            Some(false) => {
                self.sessions.insert(client, Session::Waits(exec));
                Vec::new()
            }
        }
    }

    /// A session could not be opened; the client was told.
    pub fn not_opened(&mut self, client: ClientId) {
        self.sessions.remove(&client);
    }

    /// A client is gone. Its terminal or pipes are gone as well, which a process learns by SIGHUP.
    pub fn client_gone(&mut self, client: ClientId) -> Vec<Effect> {
        match self.sessions.get(&client) {
            Some(Session::Runs) => vec![Effect::Send(Command::ExecSignal { session: client, signal: libc::SIGHUP })],
            _ => {
                self.sessions.remove(&client);
                Vec::new()
            }
        }
    }

    /// The supervisor got a signal of those that it takes.
    pub fn signal(&mut self, signal: i32, now: Now) -> Vec<Effect> {
        match (signal, self.stops) {
            (libc::SIGTERM | libc::SIGINT, 0) => self.stop(None, now),
            // A second signal: the caller does not want to wait for the apps.
            (libc::SIGTERM | libc::SIGINT, 1) => self.stop(Some(0), now),
            // A third one: nor for stage2.
            (libc::SIGTERM | libc::SIGINT, _) => {
                self.kill(exit::SIGNAL_BASE + SIGKILL, "the pod was killed before it stopped")
            }
            _ => vec![Effect::Send(Command::Signal { signal })],
        }
    }

    fn stop(&mut self, grace_millis: Option<u64>, now: Now) -> Vec<Effect> {
        self.stops = self.stops.saturating_add(1);
        let grace = grace_millis.unwrap_or(self.grace_millis_max).min(GRACE_MILLIS_MAX);
        let at = now.millis + grace + STOP_MARGIN_MILLIS;
        // A later request never gives the pod more time.
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        vec![Effect::Send(Command::Stop { grace_millis })]
    }

    fn kill(&mut self, exit: u8, cause: &str) -> Vec<Effect> {
        self.kill_at = None;
        self.blame(Some(exit), cause.to_owned());
        vec![Effect::Kill]
    }

    /// The pod cannot go on for this reason.
    pub fn fail(&mut self, cause: String) -> Vec<Effect> {
        self.blame(Some(exit::FAILURE), cause);
        vec![Effect::Kill]
    }

    fn blame(&mut self, exit: Option<u8>, cause: String) {
        self.verdict.get_or_insert((exit, cause));
    }

    /// What is due by now; each effect is given once.
    pub fn due(&mut self, now: Now) -> Vec<Effect> {
        let due = |at: &mut Option<u64>| at.take_if(|at| *at <= now.millis).is_some();
        let mut effects: Vec<Effect> = self.apps.records_due(now.millis).into_iter().map(Effect::Record).collect();
        if due(&mut self.drop_output_at) {
            effects.push(Effect::DropOutput);
        }
        if due(&mut self.kill_at) {
            effects.extend(self.kill(exit::SIGNAL_BASE + SIGKILL, "the pod did not stop in time and was killed"));
        }
        if due(&mut self.boot_by) {
            effects
                .extend(self.fail(format!("the guest did not start in time{HINT}look at its console with `--debug`")));
        }
        effects
    }

    /// When [`Self::due`] has something next.
    pub fn next(&self) -> Option<u64> {
        let drained = self.ended.map(|(_, at)| at);
        let times = [self.apps.record_at(), self.drop_output_at, self.kill_at, self.boot_by, drained];
        times.into_iter().flatten().min()
    }

    /// The exit code of a guest that is over: at once when its output is `drained`, a little later when it is not.
    pub fn guest_over(&self, drained: bool, now: Now) -> Option<u8> {
        self.ended.filter(|(_, at)| drained || *at <= now.millis).map(|(code, _)| code)
    }

    /// The code that stage2 in the guest ended the pod with, if it did.
    pub fn guest_ended(&self) -> Option<u8> {
        self.ended.map(|(code, _)| code)
    }

    /// The pod is dead, and with it the processes of all sessions.
    pub fn close_sessions(&mut self) -> Vec<Effect> {
        let close = |(client, session)| match session {
            Session::Runs => vec![Effect::Exited(client, AppEnd::Signal(SIGKILL))],
            Session::Waits(_) => refuse(client, "the pod ended before the app ran".to_owned()),
        };
        std::mem::take(&mut self.sessions).into_iter().flat_map(close).collect()
    }

    /// The apps whose records are to be written although nothing is due.
    pub fn unwritten(&mut self) -> Vec<AppName> {
        self.apps.unwritten()
    }

    /// The pod is dead. Every app has an end now, with the true cause; the records are to be written once more.
    pub fn over(&mut self, end: End, now: Now) -> Outcome {
        let exit = match &end {
            End::Code(code) => *code,
            End::Signal(signal) => exit::SIGNAL_BASE.wrapping_add(*signal),
            End::Lost(_) => exit::FAILURE,
        };
        match end {
            End::Code(_) => {}
            End::Signal(signal) => self.blame(None, format!("PID 1 of the pod was killed by signal {signal}")),
            End::Lost(cause) => self.blame(None, cause),
        }
        let failures = self.apps.failures().map(|(name, message)| format!("app `{name}`: {message}"));
        let mut messages: Vec<String> = failures.collect();
        let cause = self.verdict.as_ref().map(|(_, cause)| cause.clone());
        messages.splice(0..0, cause.clone());
        let line = cause.as_deref().and_then(|cause| cause.lines().next());
        self.apps.killed(line, now);
        let exit = self.verdict.as_ref().and_then(|(exit, _)| *exit).unwrap_or(exit);
        Outcome { exit, messages }
    }
}

fn not_running(app: &AppName) -> String {
    format!("the app `{app}` is not running")
}

fn refuse(client: ClientId, message: String) -> Vec<Effect> {
    vec![Effect::Reply(client, Reply::Refused { message }), Effect::Close(client)]
}

#[cfg(test)]
mod tests;
