//! How each app of a pod is, and what of it `status/NAME` does not say yet. Without any system call.

use contract::exit;
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::{AppEnd, AppStatus};
use std::collections::BTreeMap;

/// A start is written when the app has lived so long, or has ended: most short apps need one file, not two. No file is
/// written more often, whatever a hostile stage2 reports.
const RECORD_MILLIS_MIN: u64 = 20;

/// A moment, by a monotonic clock and by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Of a monotonic clock.
    pub millis: u64,
    /// Since the epoch.
    pub unix_nanos: u64,
}

#[derive(Debug)]
struct App {
    status: AppStatus,
    life: Life,
    ready: bool,
    notifies: bool,
    unwritten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// For its first start, or for the next one.
    Waits,
    Alive,
    Over,
}

/// The pod died under the app, which had not ended. An app that never started has not because of `cause`; without one nothing
/// is known of it, and false is the answer.
pub(crate) fn end_without_word(status: &mut AppStatus, cause: Option<&str>, unix_nanos: u64) -> bool {
    const SIGKILL: u8 = 9;
    if status.started_unix_nanos.is_some() {
        status.end = Some(AppEnd::Signal(SIGKILL));
        status.cause = cause.map(str::to_owned);
    } else if let Some(cause) = cause {
        status.end = Some(AppEnd::Failed { exit: exit::FAILURE, message: cause.to_owned() });
    } else {
        return false;
    }
    status.ended_unix_nanos = Some(unix_nanos);
    true
}

/// All apps.
#[derive(Debug)]
pub struct Apps {
    apps: BTreeMap<AppName, App>,
    record_at: Option<u64>,
    recorded: Option<u64>,
}

impl Apps {
    /// None has started.
    pub(crate) fn new(pod: &Pod) -> Self {
        let of = |app: &contract::pod::App| App {
            status: AppStatus::default(),
            life: Life::Waits,
            ready: false,
            notifies: app.notify,
            unwritten: false,
        };
        let apps = pod.apps.iter().map(|app| (app.name.clone(), of(app))).collect();
        Self { apps, record_at: None, recorded: None }
    }

    /// The app's program runs. False: there is no such app.
    pub(crate) fn started(&mut self, name: &AppName, now: Now) -> bool {
        let Some(app) = self.apps.get_mut(name) else { return false };
        match app.status.started_unix_nanos {
            None => app.status.started_unix_nanos = Some(now.unix_nanos),
            Some(_) => app.status.restarts = app.status.restarts.saturating_add(1),
        }
        (app.status.end, app.life, app.unwritten) = (None, Life::Alive, true);
        self.record_at.get_or_insert(now.millis + RECORD_MILLIS_MIN);
        true
    }

    /// The app ended. False: there is no such app.
    pub(crate) fn ended(&mut self, name: &AppName, end: AppEnd, again: bool, now: Now) -> bool {
        let Some(app) = self.apps.get_mut(name) else { return false };
        app.status.end = Some(end);
        app.status.ended_unix_nanos = Some(now.unix_nanos);
        (app.life, app.unwritten) = (if again { Life::Waits } else { Life::Over }, true);
        let at = self.recorded.map_or(now.millis, |last| now.millis.max(last + RECORD_MILLIS_MIN));
        self.record_at = Some(self.record_at.map_or(at, |earlier| earlier.min(at)));
        true
    }

    /// The app said that it is ready. False: there is no such app.
    pub(crate) fn ready(&mut self, name: &AppName) -> bool {
        self.apps.get_mut(name).map(|app| app.ready = true).is_some()
    }

    /// The pod is dead, and with it every app that had not ended.
    pub(crate) fn killed(&mut self, cause: Option<&str>, now: Now) {
        for app in self.apps.values_mut().filter(|app| app.status.end.is_none()) {
            if end_without_word(&mut app.status, cause, now.unix_nanos) {
                (app.life, app.unwritten) = (Life::Over, true);
            }
        }
    }

    /// Whether the app runs; none: there is no such app.
    pub(crate) fn is_alive(&self, name: &AppName) -> Option<bool> {
        self.apps.get(name).map(|app| app.life == Life::Alive)
    }

    /// Whether the app has ended and is not started again.
    pub(crate) fn is_over(&self, name: &AppName) -> bool {
        self.apps.get(name).is_some_and(|app| app.life == Life::Over)
    }

    /// Whether all apps have ended and none is started again.
    pub(crate) fn all_ended(&self) -> bool {
        self.apps.values().all(|app| app.life == Life::Over)
    }

    /// Whether the pod is up: each app has started, and those that say when they are ready have said so.
    pub(crate) fn all_ready(&self) -> bool {
        self.apps.values().all(|app| app.status.started_unix_nanos.is_some() && (app.ready || !app.notifies))
    }

    /// A copy for a client.
    pub(crate) fn statuses(&self) -> BTreeMap<AppName, AppStatus> {
        self.apps.iter().map(|(name, app)| (name.clone(), app.status.clone())).collect()
    }

    /// One app's.
    pub fn status(&self, name: &AppName) -> Option<&AppStatus> {
        self.apps.get(name).map(|app| &app.status)
    }

    /// The apps that could not be started, and the step that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&AppName, &str)> {
        self.apps.iter().filter_map(|(name, app)| match &app.status.end {
            Some(AppEnd::Failed { message, .. }) => Some((name, message.as_str())),
            _ => None,
        })
    }

    /// When [`Self::records_due`] has something next.
    pub(crate) fn record_at(&self) -> Option<u64> {
        self.record_at
    }

    /// The apps whose status is to be written now.
    pub(crate) fn records_due(&mut self, now_millis: u64) -> Vec<AppName> {
        if self.record_at.take_if(|at| *at <= now_millis).is_none() {
            return Vec::new();
        }
        self.recorded = Some(now_millis);
        self.unwritten()
    }

    /// The apps whose status was not written.
    pub fn unwritten(&mut self) -> Vec<AppName> {
        let unwritten = |(name, app): (&AppName, &mut App)| std::mem::take(&mut app.unwritten).then(|| name.clone());
        self.apps.iter_mut().filter_map(unwritten).collect()
    }
}
