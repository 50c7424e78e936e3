//! The rules of a pod's life, without any system call: who is started again, who stops whom, and which exit code results.

use contract::pod::{App, Restart, RestartPolicy, Stop};
use contract::status::AppEnd;

/// Milliseconds of a monotonic clock.
pub(crate) type Millis = u64;

/// What is to be done to an app, by its place in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start it.
    Start(usize),
    /// Send it this signal.
    Signal(usize, i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be started then.
    Waiting(Millis),
    Alive,
    Over,
}

#[derive(Debug)]
struct AppLife {
    state: State,
    restart: Restart,
    restarts: u32,
    stop: Stop,
    /// SIGKILL follows then.
    kill_at: Option<Millis>,
}

/// All apps of a pod.
#[derive(Debug)]
pub(crate) struct Life {
    apps: Vec<AppLife>,
    stopping: bool,
    first_failure: Option<u8>,
}

impl Life {
    /// A pod whose apps are all to be started now.
    pub(crate) fn new(apps: &[App]) -> Self {
        let of = |app: &App| AppLife {
            state: State::Waiting(0),
            restart: app.restart,
            restarts: 0,
            stop: app.stop,
            kill_at: None,
        };
        Self { apps: apps.iter().map(of).collect(), stopping: false, first_failure: None }
    }

    /// An app ended. Whether it is started again; and what to do to the others.
    pub(crate) fn ended(&mut self, index: usize, end: &AppEnd, now: Millis) -> (bool, Vec<Action>) {
        let app = &mut self.apps[index];
        app.kill_at = None;
        let again = match (app.restart.policy, end) {
            // What could not be started will not be there the next time either.
            (RestartPolicy::No, _) | (_, AppEnd::Failed { .. }) => false,
            (RestartPolicy::OnFailure, end) => end.is_failure(),
            (RestartPolicy::Always, _) => true,
        };
        let attempts_left = app.restart.attempts_max == 0 || app.restarts < app.restart.attempts_max;
        if again && attempts_left && !self.stopping {
            app.restarts += 1;
            app.state = State::Waiting(now.saturating_add(app.restart.delay_millis));
            return (true, Vec::new());
        }
        app.state = State::Over;
        if !end.is_failure() {
            return (false, Vec::new());
        }
        self.first_failure.get_or_insert(end.exit_code());
        (false, if self.stopping { Vec::new() } else { self.stop(None, now) })
    }

    /// The pod is to end: each app gets its stop signal, and SIGKILL after its grace time or this one. A second call may
    /// only make the grace time shorter.
    pub(crate) fn stop(&mut self, grace_millis: Option<u64>, now: Millis) -> Vec<Action> {
        let again = std::mem::replace(&mut self.stopping, true);
        let mut actions = Vec::new();
        for (index, app) in self.apps.iter_mut().enumerate() {
            match app.state {
                State::Waiting(_) => app.state = State::Over,
                State::Alive => {
                    let kill_at = now.saturating_add(grace_millis.unwrap_or(app.stop.grace_millis));
                    app.kill_at = Some(app.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
                    if !again {
                        actions.push(Action::Signal(index, app.stop.signal));
                    }
                }
                State::Over => {}
            }
        }
        actions
    }

    /// What is due by now; each action is given once.
    pub(crate) fn due(&mut self, now: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        for (index, app) in self.apps.iter_mut().enumerate() {
            if matches!(app.state, State::Waiting(then) if then <= now) {
                app.state = State::Alive;
                actions.push(Action::Start(index));
            }
            if app.kill_at.is_some_and(|then| then <= now) {
                app.kill_at = None;
                actions.push(Action::Signal(index, libc::SIGKILL));
            }
        }
        actions
    }

    /// When [`Self::due`] has something next.
    pub(crate) fn next(&self) -> Option<Millis> {
        let of = |app: &AppLife| {
            let start = if let State::Waiting(then) = app.state { Some(then) } else { None };
            start.into_iter().chain(app.kill_at).min()
        };
        self.apps.iter().filter_map(of).min()
    }

    /// The pod's exit code, once all apps are over.
    pub(crate) fn over(&self) -> Option<u8> {
        let over = self.apps.iter().all(|app| app.state == State::Over);
        over.then(|| self.first_failure.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(restart: &[&str]) -> Life {
        let app = |restart: &&str| {
            crate::samples::app(&format!(r#"{{"restart": {restart}, "stop": {{"signal": 15, "grace_millis": 100}}}}"#))
        };
        let mut life = Life::new(&restart.iter().map(app).collect::<Vec<_>>());
        assert_eq!(life.due(0).len(), restart.len());
        life
    }

    const NO: &str = r#"{"policy": "no"}"#;

    #[test]
    fn first_failure_decides_and_stops_the_others() {
        let mut life = pod(&[NO, NO, NO]);
        assert_eq!(life.ended(0, &AppEnd::Code(0), 5), (false, vec![]));
        assert_eq!(life.ended(1, &AppEnd::Code(3), 10), (false, vec![Action::Signal(2, 15)]));
        assert_eq!((life.over(), life.next()), (None, Some(110)));
        assert_eq!(life.due(109), vec![]);
        assert_eq!(life.due(110), vec![Action::Signal(2, 9)]);
        assert_eq!(life.due(200), vec![]);
        life.ended(2, &AppEnd::Signal(9), 201);
        assert_eq!(life.over(), Some(3));
    }

    #[test]
    fn all_good_is_zero() {
        let mut life = pod(&[NO]);
        life.ended(0, &AppEnd::Code(0), 1);
        assert_eq!(life.over(), Some(0));
    }

    #[test]
    fn failed_start_counts() {
        let mut life = pod(&[r#"{"policy": "always"}"#, NO]);
        let end = AppEnd::Failed { exit: 127, message: String::new() };
        assert_eq!(life.ended(0, &end, 1), (false, vec![Action::Signal(1, 15)]));
        life.ended(1, &AppEnd::Signal(15), 2);
        assert_eq!(life.over(), Some(127));
    }

    #[test]
    fn restarts() {
        let mut life = pod(&[r#"{"policy": "on-failure", "attempts_max": 2, "delay_millis": 50}"#]);
        assert_eq!(life.ended(0, &AppEnd::Signal(11), 10), (true, vec![]));
        assert_eq!((life.next(), life.due(59), life.due(60)), (Some(60), vec![], vec![Action::Start(0)]));
        assert!(life.ended(0, &AppEnd::Code(1), 100).0);
        assert_eq!(life.due(150), vec![Action::Start(0)]);
        assert!(!life.ended(0, &AppEnd::Code(4), 200).0);
        assert_eq!(life.over(), Some(4));

        let mut life = pod(&[r#"{"policy": "always"}"#]);
        assert!(life.ended(0, &AppEnd::Code(0), 10).0);
        assert_eq!(life.stop(None, 10), vec![]);
        assert_eq!(life.over(), Some(0));
    }

    #[test]
    fn stop_ends_restarts_and_its_grace_only_shrinks() {
        let mut life = pod(&[r#"{"policy": "always"}"#]);
        assert_eq!(life.stop(None, 0), vec![Action::Signal(0, 15)]);
        assert_eq!(life.stop(Some(5), 10), vec![]);
        assert_eq!(life.next(), Some(15));
        assert_eq!(life.stop(Some(5000), 11), vec![]);
        assert_eq!(life.next(), Some(15));
        assert!(!life.ended(0, &AppEnd::Signal(15), 12).0);
        assert_eq!(life.over(), Some(143));
    }
}
