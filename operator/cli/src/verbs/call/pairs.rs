//! `gaia call --all-pairs`: each declared pair connects and gets a token, and one that is not declared gets none.

use http::{HeaderMap, Method};
use serde::Serialize;

use super::bearer;
use crate::cli::Context;
use crate::mesh::{self, Platform};
use crate::output::{self, Report, Table};
use crate::{Exit, Failure};

/// The results of all pairs.
#[derive(Debug, Serialize)]
struct Pairs {
    pairs: Vec<Pair>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    caller: String,
    target: String,
    is_declared: bool,
    is_as_expected: bool,
    result: String,
    #[serde(skip)]
    exit: Exit,
}

impl Report for Pairs {
    const KIND: &'static str = "Pairs";

    fn text(&self, _is_wide: bool) -> String {
        let mut table = Table::new(&["CALLER", "TARGET", "DECLARED", "OK", "RESULT"]);
        for Pair { caller, target, is_declared, is_as_expected, result, .. } in &self.pairs {
            let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
            table.row([caller.clone(), target.clone(), yes(*is_declared), yes(*is_as_expected), result.clone()]);
        }
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.pairs.iter().map(|pair| format!("{} {}", pair.caller, pair.target)).collect()
    }
}

pub(super) async fn run(platform: &Platform, context: &mut Context) -> Result<Exit, Failure> {
    let mut pairs = vec![];
    let names: Vec<&str> = platform.services.iter().filter_map(|service| service.metadata.name.as_deref()).collect();
    let mut undeclared = None;
    for service in &platform.services {
        let Some(target) = service.metadata.name.as_deref() else { continue };
        for caller in &names {
            if service.spec.callers.iter().any(|declared| declared.service == *caller) {
                pairs.push(declared(platform, caller, target).await);
            } else if undeclared.is_none() && caller != &target {
                undeclared = Some((*caller, target));
            }
        }
    }
    if pairs.is_empty() {
        return Err(Failure::usage("no service declares a caller").next("add spec.callers to a GaiaService"));
    }
    if let Some((caller, target)) = undeclared {
        pairs.push(refused(platform, caller, target).await);
    }
    let exit = pairs.iter().map(|pair| pair.exit).collect();
    let format = context.format();
    output::print(&mut context.console, format, &Pairs { pairs })?;
    Ok(exit)
}

async fn declared(platform: &Platform, caller: &str, target: &str) -> Pair {
    let (exit, result) = match call(platform, caller, target).await {
        Ok(status) if status < 400 => (Exit::Done, format!("{status}")),
        Ok(status) => (Exit::Failing, format!("{status}")),
        Err(failure) => (failure.exit(), failure.cause().to_owned()),
    };
    pair(caller, target, true, exit, result)
}

/// A token for `GET /health` at the target, and the call itself.
async fn call(platform: &Platform, caller: &str, target: &str) -> Result<u16, Failure> {
    let by = platform.caller(caller)?;
    let token = by.token(platform, target, None, None).await?;
    let uri = mesh::parse_uri(&format!("https://{}/health", platform.address(target)?))?;
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, bearer(&token.access_token)?)]);
    let expected = platform.identity(target, &by)?;
    let answer = by.call(Method::GET, uri, headers, String::new(), Some(expected)).await?;
    Ok(answer.status.as_u16())
}

async fn refused(platform: &Platform, caller: &str, target: &str) -> Pair {
    let token = match platform.caller(caller) {
        Ok(by) => by.token(platform, target, None, None).await.map(drop),
        Err(failure) => Err(failure),
    };
    let (exit, result) = match token {
        Ok(()) => (Exit::Failing, "a token was issued to a caller that is not declared".to_owned()),
        Err(failure) if failure.exit() == Exit::Failing => (Exit::Done, failure.cause().to_owned()),
        Err(failure) => (failure.exit(), failure.cause().to_owned()),
    };
    pair(caller, target, false, exit, result)
}

fn pair(caller: &str, target: &str, is_declared: bool, exit: Exit, result: String) -> Pair {
    let (caller, target) = (caller.to_owned(), target.to_owned());
    Pair { caller, target, is_declared, is_as_expected: exit == Exit::Done, result, exit }
}
