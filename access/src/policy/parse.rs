//! From the tree to a policy: every element is known, of the right shape, and where it belongs.

use super::condition::Condition;
use super::json::{self, Json};
use super::pattern::{ArnPattern, Pattern};
use super::principal::{Principals, project_of};
use super::{Actions, Form, Malformed, Policy, Resources, Statement};

/// Statements of a policy at most; the bytes bound it, this one bounds the work of a decision.
const STATEMENTS_MAX: usize = 256;

pub(super) fn policy(text: &str, form: Form, bytes_max: usize) -> Result<Policy, Malformed> {
    if text.len() > bytes_max {
        return Err(Malformed(format!(
            "it has {} bytes, the most is {bytes_max}",
            text.len()
        )));
    }
    let Json::Map(elements) = json::read(text)? else {
        return Err(Malformed("it is not a JSON object".into()));
    };
    let mut version = false;
    let mut statements = None;
    for (name, value) in elements {
        match name.as_str() {
            "Version" => version = knows_variables(&value)?,
            "Id" => {
                string("Id", &value)?;
            }
            "Statement" => statements = Some(value),
            _ => return Err(unknown(&name, "a policy", "Version, Id, Statement")),
        }
    }
    let statements = match statements {
        None => return Err(Malformed("it has no Statement".into())),
        Some(Json::List(list)) => list,
        Some(single @ Json::Map(_)) => vec![single],
        Some(other) => {
            let text = format!("Statement is {}, not an object or a list", other.sort());
            return Err(Malformed(text));
        }
    };
    if statements.is_empty() || statements.len() > STATEMENTS_MAX {
        let count = statements.len();
        let text = format!("it has {count} statements; 1 to {STATEMENTS_MAX} are allowed");
        return Err(Malformed(text));
    }
    let mut read: Vec<Statement> = Vec::with_capacity(statements.len());
    for (place, tree) in statements.into_iter().enumerate() {
        let statement = statement(tree, form, version)
            .map_err(|Malformed(why)| Malformed(format!("statement {}: {why}", place + 1)))?;
        let doubled = statement
            .sid
            .as_ref()
            .filter(|sid| !sid.is_empty())
            .filter(|sid| read.iter().any(|other| other.sid.as_ref() == Some(sid)));
        if let (Some(sid), true) = (doubled, form != Form::Resource) {
            return Err(Malformed(format!("two statements have the Sid {sid:?}")));
        }
        read.push(statement);
    }
    Ok(Policy { statements: read })
}

/// Whether this version of the language has variables. Without a Version it is the older one.
fn knows_variables(value: &Json) -> Result<bool, Malformed> {
    match value {
        Json::Text(text) if text == "2012-10-17" => Ok(true),
        Json::Text(text) if text == "2008-10-17" => Ok(false),
        Json::Text(text) => Err(Malformed(format!(
            "Version {text:?} is neither \"2012-10-17\" nor \"2008-10-17\""
        ))),
        other => Err(Malformed(format!(
            "Version is {}, not a string",
            other.sort()
        ))),
    }
}

fn statement(tree: Json, form: Form, variables: bool) -> Result<Statement, Malformed> {
    let Json::Map(elements) = tree else {
        return Err(Malformed(format!("it is {}, not an object", tree.sort())));
    };
    let mut sid = None;
    let mut deny = None;
    let mut principals = None;
    let mut actions = None;
    let mut resources = None;
    let mut conditions = Vec::new();
    for (name, value) in &elements {
        match name.as_str() {
            "Sid" => sid = Some(sid_of(value, form)?),
            "Effect" => {
                deny = Some(match value {
                    Json::Text(text) if text == "Allow" => false,
                    Json::Text(text) if text == "Deny" => true,
                    Json::Text(text) => {
                        let text = format!("Effect {text:?} is neither \"Allow\" nor \"Deny\"");
                        return Err(Malformed(text));
                    }
                    other => {
                        let text = format!("Effect is {}, not a string", other.sort());
                        return Err(Malformed(text));
                    }
                });
            }
            "Action" | "NotAction" => {
                once(&actions, "Action", "NotAction")?;
                actions = Some(Actions {
                    not: name == "NotAction",
                    patterns: list(name, value, action)?,
                });
            }
            "Resource" | "NotResource" => {
                once(&resources, "Resource", "NotResource")?;
                resources = Some(Resources {
                    not: name == "NotResource",
                    patterns: list(name, value, |text| ArnPattern::read(text, variables))?,
                });
            }
            "Principal" | "NotPrincipal" => {
                once(&principals, "Principal", "NotPrincipal")?;
                principals = Some(principal(value, name == "NotPrincipal")?);
            }
            "Condition" => conditions = all_conditions(value, variables)?,
            _ => {
                let known = "Sid, Effect, Principal, NotPrincipal, Action, NotAction, Resource, \
                             NotResource, Condition";
                return Err(unknown(name, "a statement", known));
            }
        }
    }
    let missing = |name: &str| Malformed(format!("it has no {name}"));
    let deny = deny.ok_or_else(|| missing("Effect"))?;
    let actions = actions.ok_or_else(|| missing("Action"))?;
    match form {
        Form::Identity | Form::Session => {
            if principals.is_some() {
                let text = "a Principal has no place here: who it is attached to is meant";
                return Err(Malformed(text.into()));
            }
            resources.as_ref().ok_or_else(|| missing("Resource"))?;
        }
        Form::Resource => {
            principals.as_ref().ok_or_else(|| missing("Principal"))?;
            resources.as_ref().ok_or_else(|| missing("Resource"))?;
        }
        Form::Trust => {
            principals.as_ref().ok_or_else(|| missing("Principal"))?;
            if resources.is_some() {
                let text = "a Resource has no place here: the role itself is meant";
                return Err(Malformed(text.into()));
            }
        }
    }
    let not_principal = principals
        .as_ref()
        .is_some_and(|some: &Principals| some.not);
    if not_principal && !deny {
        let text = "Allow with NotPrincipal would let in everybody who is not named: name who may";
        return Err(Malformed(text.into()));
    }
    Ok(Statement {
        sid,
        deny,
        principals,
        actions,
        resources,
        conditions,
    })
}

fn once<T>(before: &Option<T>, name: &str, other: &str) -> Result<(), Malformed> {
    match before {
        None => Ok(()),
        Some(_) => Err(Malformed(format!("it has both {name} and {other}"))),
    }
}

fn unknown(name: &str, of: &str, known: &str) -> Malformed {
    Malformed(format!("{name:?} is no element of {of} (known: {known})"))
}

fn string<'a>(name: &str, value: &'a Json) -> Result<&'a str, Malformed> {
    match value {
        Json::Text(text) => Ok(text),
        other => Err(Malformed(format!(
            "{name} is {}, not a string",
            other.sort()
        ))),
    }
}

fn sid_of(value: &Json, form: Form) -> Result<String, Malformed> {
    let sid = string("Sid", value)?;
    // IAM takes letters and digits only; S3 takes more in bucket policies.
    let fits = form == Form::Resource || sid.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !fits || sid.len() > 256 {
        return Err(Malformed(format!(
            "Sid {sid:?} has other characters than letters and digits, or more than 256"
        )));
    }
    Ok(sid.to_owned())
}

/// One string or a list of at least one.
fn list<T>(
    name: &str,
    value: &Json,
    read: impl Fn(&str) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    match value {
        Json::Text(text) => Ok(vec![read(text)?]),
        Json::List(items) if !items.is_empty() => {
            items.iter().map(|item| read(string(name, item)?)).collect()
        }
        Json::List(_) => Err(Malformed(format!("{name} is an empty list"))),
        other => Err(Malformed(format!(
            "{name} is {}, not a string or a list of strings",
            other.sort()
        ))),
    }
}

fn action(text: &str) -> Result<Pattern, Malformed> {
    let fits = text == "*"
        || text.split_once(':').is_some_and(|(service, verb)| {
            let letters = |text: &str| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_*?".contains(&byte))
            };
            letters(service) && letters(verb)
        });
    if !fits {
        return Err(Malformed(format!(
            "action {text:?} is neither \"*\" nor written as service:Verb, such as s3:GetObject"
        )));
    }
    Pattern::read(text, true, false).map(Pattern::lowered)
}

fn principal(value: &Json, not: bool) -> Result<Principals, Malformed> {
    let mut principals = Principals {
        not,
        everybody: false,
        arns: Vec::new(),
        projects: Vec::new(),
        issuers: Vec::new(),
    };
    match value {
        Json::Text(text) if text == "*" => principals.everybody = true,
        Json::Map(sorts) if !sorts.is_empty() => {
            for (sort, named) in sorts {
                let name = format!("Principal {sort}");
                match sort.as_str() {
                    "AWS" => {
                        for named in list(&name, named, |text| Ok(text.to_owned()))? {
                            aws_principal(&named, &mut principals)?;
                        }
                    }
                    "Federated" => {
                        principals
                            .issuers
                            .extend(list(&name, named, |text| Ok(text.to_owned()))?);
                    }
                    "CanonicalUser" => {
                        principals
                            .projects
                            .extend(list(&name, named, |text| Ok(text.to_owned()))?);
                    }
                    // Services of AWS are none of ours: such a statement lets nobody in.
                    "Service" => {
                        list(&name, named, |text| Ok(text.to_owned()))?;
                    }
                    _ => {
                        let known = "AWS, Federated, CanonicalUser, Service";
                        return Err(unknown(sort, "a Principal", known));
                    }
                }
            }
        }
        _ => {
            let text = "Principal is neither \"*\" nor an object such as {\"AWS\": \"arn:…\"}";
            return Err(Malformed(text.into()));
        }
    }
    Ok(principals)
}

fn aws_principal(named: &str, principals: &mut Principals) -> Result<(), Malformed> {
    if named == "*" {
        principals.everybody = true;
        return Ok(());
    }
    if let Some(project) = project_of(named) {
        principals.projects.push(project.to_owned());
        return Ok(());
    }
    let parts: Vec<&str> = named.splitn(6, ':').collect();
    let fits = match parts.as_slice() {
        ["arn", "aws", service, "", project, who] => {
            let kinds: &[&str] = match *service {
                "iam" => &["user/", "role/"],
                "sts" => &["assumed-role/"],
                _ => &[],
            };
            !project.is_empty()
                && !named.contains(['*', '?'])
                && kinds
                    .iter()
                    .any(|kind| who.strip_prefix(kind).is_some_and(|name| !name.is_empty()))
        }
        _ => false,
    };
    if !fits {
        return Err(Malformed(format!(
            "principal {named:?} is neither \"*\", a project, nor the ARN of a user, a role or a \
             session (no wildcards)"
        )));
    }
    principals.arns.push(named.to_owned());
    Ok(())
}

fn all_conditions(value: &Json, variables: bool) -> Result<Vec<Condition>, Malformed> {
    let Json::Map(operators) = value else {
        let text = format!("Condition is {}, not an object", value.sort());
        return Err(Malformed(text));
    };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Json::Map(keys) = keys else {
            let text = format!(
                "condition {operator:?} holds {}, not an object",
                keys.sort()
            );
            return Err(Malformed(text));
        };
        for (key, values) in keys {
            conditions.push(Condition::read(operator, key, values, variables)?);
        }
    }
    Ok(conditions)
}
