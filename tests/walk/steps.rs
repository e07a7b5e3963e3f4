//! One step for each operation of the table: refused without a grant, refused with all grants but one,
//! done with exactly its grants; and each of the three on record.

use super::client::{Answer, Ask, Client, Key, Way};
use super::table;
use crate::harness::Server;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Who is refused and let in: a user of the operator's own project, so that what there is is theirs to
/// be given.
pub(crate) const WALKER: &str = "walker";
const WALKER_ARN: &str = "arn:aws:iam::root:user/walker";

/// An action and a resource.
pub(crate) type Need = (String, String);

pub(crate) fn need(action: &str, resource: &str) -> Need {
    (action.to_owned(), resource.to_owned())
}

/// What answers a request that was let through.
#[derive(Clone, Copy)]
pub(crate) enum Granted {
    /// It is done.
    Done,
    /// It is past the decision and ends for another reason, which is this one.
    Passes(u16, &'static str),
}

/// An operation, ready to be tried.
pub(crate) struct Try {
    pub(crate) ask: Ask,
    pub(crate) needs: Vec<Need>,
    pub(crate) granted: Granted,
}

impl Ask {
    pub(crate) fn needs(self, needs: &[(&str, &str)]) -> Try {
        Try {
            ask: self,
            needs: needs.iter().map(|(action, on)| need(action, on)).collect(),
            granted: Granted::Done,
        }
    }
}

impl Try {
    /// It cannot be done here, and that is told to those only who might.
    pub(crate) fn passes(mut self, status: u16, why: &'static str) -> Self {
        self.granted = Granted::Passes(status, why);
        self
    }
}

/// A step: the operation as the table calls it, and what makes it ready.
pub(crate) type Step = (&'static str, fn(&Site) -> Try);

/// What the journal must hold of one request.
struct Expected {
    claim: String,
    agent: String,
    needs: Vec<Need>,
    verdict: Verdict,
}

#[derive(Clone)]
enum Verdict {
    /// One of its needs was denied, and nothing else decided after.
    Denied,
    /// This need was.
    Lacking(Need),
    /// All of them were allowed, and nothing else was asked.
    Allowed,
    /// One of its needs was denied.
    SomeDenied,
    /// This need was, among others.
    LackingAmong(Need),
    /// All of them were allowed, among others.
    AllowedAmong,
}

/// A server, its operator, and the walker.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) root: Key,
    pub(crate) walker: Key,
    count: Cell<u64>,
    given: Cell<bool>,
    statements: RefCell<Option<Value>>,
    wrong: RefCell<Vec<String>>,
    expected: RefCell<Vec<Expected>>,
}

impl Site {
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::of(Server::start_with(more))
    }

    pub(crate) fn start_under(environment: impl FnOnce(&Path) -> Vec<(String, String)>) -> Self {
        Self::of(Server::start_under(environment))
    }

    fn of(server: Server) -> Self {
        let (id, secret) = server.credentials();
        let client = Client::new(&server.address());
        let made = server.json(&["user", "create", WALKER, "--key"]);
        let part = |name: &str| made["key"][name].as_str().unwrap().to_owned();
        Self {
            walker: Key {
                id: part("id"),
                secret: part("secret_key"),
            },
            root: Key { id, secret },
            client,
            server,
            count: Cell::new(0),
            given: Cell::new(false),
            statements: RefCell::default(),
            wrong: RefCell::default(),
            expected: RefCell::default(),
        }
    }

    /// The operator does something.
    #[track_caller]
    pub(crate) fn root(&self, ask: &Ask) -> Answer {
        let answer = self.root_tries(ask);
        assert!(
            (200..300).contains(&answer.status),
            "{} {}: {answer:?}",
            ask.method,
            ask.path
        );
        answer
    }

    /// The operator does something that may have been done.
    pub(crate) fn root_tries(&self, ask: &Ask) -> Answer {
        self.client.send(&self.root, ask, "root")
    }

    /// The operator calls the JSON API.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.root(&Ask::api(method, path).json(body))
    }

    /// What the walker may from now on: nothing, or these statements.
    pub(crate) fn may(&self, statements: Option<Value>) {
        self.statements.replace(statements.clone());
        let path = format!("/users/{WALKER}/policies/walk");
        match statements {
            Some(statements) => {
                let document = json!({"Version": "2012-10-17", "Statement": statements});
                self.api("put", &path, &json!({"document": document.to_string()}));
                self.given.set(true);
            }
            None if self.given.replace(false) => {
                self.root(&Ask::api("delete", &path));
            }
            None => {}
        }
    }

    /// Does something with every grant, and gives back those that were.
    pub(crate) fn with_all<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.statements.take();
        self.may(Some(
            json!([{"Effect": "Allow", "Action": "*", "Resource": "*"}]),
        ));
        let done = work();
        self.may(before);
        done
    }

    /// Notes what the journal must hold between two marks, or of one agent.
    fn expect(&self, claim: String, agent: String, needs: &[Need], verdict: Verdict) {
        self.expected.borrow_mut().push(Expected {
            claim,
            agent,
            needs: needs.to_vec(),
            verdict,
        });
    }

    fn ask(&self, ask: &Ask) -> (String, Answer) {
        let number = self.count.get();
        self.count.set(number + 1);
        let agent = format!("walk/{number}");
        let answer = self.client.send(&self.walker, ask, &agent);
        (agent, answer)
    }

    pub(crate) fn is_wrong(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }

    /// Takes each step of a door; every row of the table has one, and every step its rows.
    pub(crate) fn walk(&self, door: &str, refused: fn(&Answer) -> bool, steps: &[Step]) {
        let mut taken = Taken::of(door);
        for (operation, make) in steps {
            let step = make(self);
            if taken.is_free(operation) && step.needs.is_empty() {
                self.step_free(door, operation, &step);
            } else {
                self.step(door, operation, refused, &step);
            }
            taken.takes(self, operation, &step.needs);
        }
        taken.finish(self);
    }

    /// The same where something else than a request is done.
    pub(crate) fn act(&self, door: &str, acts: &[Doing]) {
        let mut taken = Taken::of(door);
        for (operation, make) in acts {
            let act = make(self);
            taken.takes(self, operation, &act.needs);
            let tried = |claim: &str, statements: Value, wanted: bool, verdict: Verdict| {
                let claim = format!("{door}, {operation}, {claim}");
                self.may(Some(act.with_more(&statements)));
                let ready = (act.ready)(self);
                let mark = self.mark();
                let done = ready(self);
                self.mark();
                if done.is_ok() != wanted {
                    self.is_wrong(format!("{claim}: {done:?}"));
                }
                self.expect(claim, mark, &act.needs, verdict);
            };
            tried("without a policy", json!([]), false, Verdict::SomeDenied);
            for lacking in act.needs.iter().filter(|_| !act.is_one_of_several) {
                let claim = format!("without {} on {}", lacking.0, lacking.1);
                let verdict = Verdict::LackingAmong(lacking.clone());
                tried(&claim, all_but(lacking), false, verdict);
            }
            let claim = "with just its grants";
            tried(claim, just(&act.needs), true, Verdict::AllowedAmong);
        }
        taken.finish(self);
    }

    /// A decision of its own, which in the journal divides what is before it from what is behind.
    fn mark(&self) -> String {
        let mark = format!("mark/{}", self.count.get());
        self.count.set(self.count.get() + 1);
        self.client
            .send(&self.walker, &Ask::api("get", "/volumes"), &mark);
        mark
    }

    fn step(&self, door: &str, operation: &str, refused: fn(&Answer) -> bool, step: &Try) {
        self.may(None);
        let (agent, answer) = self.ask(&step.ask);
        let claim = format!("{door}, {operation}, without a policy");
        if !refused(&answer) {
            self.is_wrong(format!("{claim}: {answer:?}"));
        }
        self.expect(claim, agent, &step.needs, Verdict::Denied);
        for lacking in &step.needs {
            self.may(Some(all_but(lacking)));
            let (agent, answer) = self.ask(&step.ask);
            let claim = format!(
                "{door}, {operation}, without {} on {}",
                lacking.0, lacking.1
            );
            if !refused(&answer) {
                self.is_wrong(format!("{claim}: {answer:?}"));
            }
            self.expect(claim, agent, &step.needs, Verdict::Lacking(lacking.clone()));
        }
        self.may(Some(just(&step.needs)));
        let (agent, answer) = self.ask(&step.ask);
        let (claim, fits) = match step.granted {
            Granted::Done => {
                // A copy between servers tells at its end how it went.
                let went = answer.status != 202 || answer.body.contains("\nsuccess: ");
                ("done", went && matches!(answer.status, 101 | 200..300))
            }
            Granted::Passes(status, why) => (why, answer.status == status),
        };
        let claim = format!("{door}, {operation}, with just its grants: {claim}");
        if !fits || refused(&answer) {
            self.is_wrong(format!("{claim}: {answer:?}"));
        }
        self.expect(claim, agent, &step.needs, Verdict::Allowed);
    }

    /// What takes a key and no grant: done with any key, and with none refused.
    fn step_free(&self, door: &str, operation: &str, step: &Try) {
        self.may(None);
        let (_, answer) = self.ask(&step.ask);
        if !(200..300).contains(&answer.status) {
            self.is_wrong(format!("{door}, {operation}, with any key: {answer:?}"));
        }
        let (_, answer) = self.ask(&step.ask.clone().way(Way::Open));
        if !matches!(answer.status, 401 | 403) {
            self.is_wrong(format!("{door}, {operation}, with no key: {answer:?}"));
        }
    }

    /// The walker's decisions, by what the client called itself: kind, action, resource.
    pub(crate) fn decisions(&self) -> BTreeMap<String, Vec<(bool, Need)>> {
        let mut found: BTreeMap<String, Vec<(bool, Need)>> = BTreeMap::new();
        let mut mark = String::new();
        for event in self.events() {
            let Some((agent, decision)) = decision(&event) else {
                continue;
            };
            if agent.starts_with("mark/") {
                mark = agent;
            } else if agent.starts_with("walk/") {
                found.entry(agent).or_default().push(decision);
            } else {
                found.entry(mark.clone()).or_default().push(decision);
            }
        }
        found
    }

    /// Everything in the journal, with what is under way just now.
    pub(crate) fn events(&self) -> Vec<Value> {
        // What came before a decision is in the journal once that one is.
        let mark = self.mark();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = self.server.infall(&["events", "--json"]).ok();
            if text.contains(&mark) {
                let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
                return lines.collect();
            }
            assert!(
                Instant::now() < until,
                "a decision never reached the journal"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Holds the journal against what was done, and tells all that was wrong.
    pub(crate) fn finish(self) {
        let found = self.decisions();
        for one in self.expected.take() {
            let decided = found.get(&one.agent).cloned().unwrap_or_default();
            let (allowed, denied): (Vec<_>, Vec<_>) =
                decided.into_iter().partition(|(allowed, _)| *allowed);
            let set = |all: Vec<(bool, Need)>| -> BTreeSet<Need> {
                all.into_iter().map(|(_, need)| need).collect()
            };
            let (allowed, denied) = (set(allowed), set(denied));
            let needed = |found: &Need| one.needs.iter().any(|need| covers(need, found));
            let all = |found: &BTreeSet<Need>| {
                let has = |need: &Need| found.iter().any(|found| covers(need, found));
                one.needs.iter().all(has)
            };
            let holds = match &one.verdict {
                Verdict::Denied => !denied.is_empty() && denied.iter().all(needed),
                Verdict::Lacking(need) => {
                    !denied.is_empty() && denied.iter().all(|found| covers(need, found))
                }
                Verdict::Allowed => {
                    denied.is_empty() && all(&allowed) && allowed.iter().all(needed)
                }
                Verdict::SomeDenied => denied.iter().any(needed),
                Verdict::LackingAmong(need) => denied.iter().any(|found| covers(need, found)),
                Verdict::AllowedAmong => all(&allowed),
            };
            if !holds {
                self.is_wrong(format!(
                    "{}: the journal has allowed {allowed:?}, denied {denied:?}",
                    one.claim
                ));
            }
        }
        let wrong = self.wrong.take();
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        let journal = self.server.infall(&["events", "--json"]).ok();
        for secret in [&self.root.secret, &self.walker.secret] {
            assert!(
                !journal.contains(secret.as_str()),
                "a secret is in the journal"
            );
        }
        let log = self.server.log();
        assert!(!log.contains(&self.walker.secret), "a secret is in the log");
        // The first start shows it, once.
        assert!(
            log.matches(&self.root.secret).count() < 2,
            "root's secret is in the log"
        );
    }
}

/// Whether a decision is about a need; one about all of a bucket's objects is about each.
fn covers((action, on): &Need, found: &Need) -> bool {
    let same = match on.strip_suffix("/*") {
        Some(bucket) => found
            .1
            .strip_prefix(bucket)
            .is_some_and(|rest| rest.starts_with('/')),
        None => found.1 == *on,
    };
    same && *action == found.0
}

/// Which rows of a door have had their step.
struct Taken {
    door: String,
    rows: BTreeMap<String, Vec<table::Row>>,
    left: Vec<table::Row>,
}

impl Taken {
    fn of(door: &str) -> Self {
        let rows = table::of(door);
        Self {
            door: door.to_owned(),
            left: rows.values().flatten().cloned().collect(),
            rows,
        }
    }

    fn is_free(&self, operation: &str) -> bool {
        let rows = self.rows.get(operation);
        rows.is_some_and(|rows| rows.iter().all(table::Row::is_free))
    }

    fn takes(&mut self, site: &Site, operation: &str, needs: &[Need]) {
        let door = &self.door;
        let rows = self.rows.get(operation).cloned().unwrap_or_default();
        if rows.is_empty() {
            site.is_wrong(format!("{door}, {operation}: the table has no such row"));
        }
        for (action, arn) in needs {
            let fits = |row: &&table::Row| row.action == *action && row.means(arn);
            if !rows.iter().any(|row| fits(&row)) {
                site.is_wrong(format!(
                    "{door}, {operation}: the table has no row for {action} on {arn}"
                ));
            }
            self.left
                .retain(|row| row.operation != operation || !fits(&row));
        }
        let free = needs.is_empty() && self.is_free(operation);
        self.left.retain(|row| row.operation != operation || !free);
    }

    fn finish(self, site: &Site) {
        for row in self.left {
            site.is_wrong(format!("no step takes the row {row:?}"));
        }
    }
}

/// Something done that is no request, once it is ready: an error is a refusal in its own words.
pub(crate) type Ready = Box<dyn Fn(&Site) -> Result<(), String>>;

/// An operation that is not a request, as the table calls it, and what makes it ready.
pub(crate) type Doing = (&'static str, fn(&Site) -> Act);

/// An operation of a door that is not HTTP.
pub(crate) struct Act {
    pub(crate) needs: Vec<Need>,
    /// What is granted beside, each time: not what the step is about.
    pub(crate) beside: Vec<Need>,
    /// Other actions would do as well, so that the lack of this one alone is no refusal.
    pub(crate) is_one_of_several: bool,
    /// Gets ready with what is granted then.
    pub(crate) ready: fn(&Site) -> Ready,
}

impl Act {
    fn with_more(&self, statements: &Value) -> Value {
        let mut all = just(&self.beside);
        let more = statements.as_array().cloned().unwrap_or_default();
        all.as_array_mut().unwrap().extend(more);
        match all.as_array().unwrap().is_empty() {
            // A policy has a statement; this one grants nothing that is tried.
            true => just(&[need("sts:GetCallerIdentity", "*")]),
            false => all,
        }
    }
}

/// Exactly these.
pub(crate) fn just(needs: &[Need]) -> Value {
    let each = needs
        .iter()
        .map(|(action, on)| json!({"Effect": "Allow", "Action": action, "Resource": on}));
    each.collect()
}

/// Everything but this one.
pub(crate) fn all_but((action, on): &Need) -> Value {
    json!([
        {"Effect": "Allow", "NotAction": action, "Resource": "*"},
        {"Effect": "Allow", "Action": action, "NotResource": on},
    ])
}

/// A decision about the walker: what the client called itself, whether it was allowed, and what.
pub(crate) fn decision(event: &Value) -> Option<(String, (bool, Need))> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let allowed = match text("kind") {
        "access.allowed" => true,
        "access.denied" => false,
        _ => return None,
    };
    let (action, rest) = text("detail").split_once(" by ")?;
    let (who, _) = rest.split_once(": ")?;
    let agent = rest.rsplit_once("; agent \"").map(|(_, agent)| agent);
    let agent = agent.unwrap_or_default().trim_end_matches('"').to_owned();
    (who == WALKER_ARN).then(|| (agent, (allowed, need(action, text("subject")))))
}
