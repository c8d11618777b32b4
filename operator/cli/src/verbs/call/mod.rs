//! `gaia call`: one request as a service, the same by key and by token, or one for each granted pair.

mod pairs;

use std::path::{Path, PathBuf};

use clap::Args;
use gaia_auth::API_KEY_HEADER;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::cli::Context;
use crate::mesh::{self, Answer, Caller, Platform};
use crate::source::directory::read_bounded;
use crate::{Console, Exit, Failure};

/// Arguments of `gaia call`.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// The method (GET without it; POST with a body), the https URL (its host may be the name of a service), and the body.
    #[arg(value_name = "[METHOD] URL [BODY]", num_args = 1..=3, required_unless_present = "all_pairs")]
    request: Vec<String>,
    /// The service that calls.
    #[arg(long = "as", value_name = "SERVICE", required_unless_present = "all_pairs")]
    caller: Option<String>,
    /// Send the API key in this file, and no token.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The service that the token is for; without it the one at the address of the URL.
    #[arg(long, value_name = "SERVICE")]
    audience: Option<String>,
    /// Make the call twice, by the API key and by a token, and compare the status codes.
    #[arg(long, requires = "api_key_file")]
    compare: bool,
    /// Call every service as each of its declared callers, and as one that is not declared.
    #[arg(long, conflicts_with_all = ["request", "compare"])]
    all_pairs: bool,
    /// Print address, server, credential and status on stderr.
    #[arg(short, long)]
    verbose: bool,
}

/// Makes the calls. Exit code 2: a status of 400 or above, or an unexpected server; 3: no response.
pub(crate) async fn run(args: &CallArgs, context: &mut Context) -> Result<Exit, Failure> {
    let platform = Platform::load(context.source()?).await?;
    if args.all_pairs {
        return pairs::run(&platform, context).await;
    }
    let (method, uri, body) = parse_request(&args.request)?;
    let caller = platform.caller(args.caller.as_deref().unwrap_or_default())?;
    let target = args.audience.as_deref().or_else(|| platform.service_at(&uri)).map(str::to_owned);
    let key = args.api_key_file.as_deref().map(read_key).transpose()?;
    let console = &mut context.console;
    if target.is_none() && (key.is_none() || args.compare) {
        console.progress(&format!("{uri}: no service has this address, so no token is sent; name it by --audience"));
    }
    let uri = platform.located(uri)?;
    let call = Call { platform: &platform, caller: &caller, target, method, uri, body };
    if args.compare {
        let by_key = call.send(key, args.verbose, console).await?;
        let by_token = call.send(None, args.verbose, console).await?;
        let (key, token) = (by_key.status, by_token.status);
        let is_same = key == token;
        let result = if is_same { "the same" } else { "different" };
        console.print(&format!("by API key {key}, by token {token}: {result}\n"))?;
        return Ok(if is_same { exit_of(&by_token) } else { Exit::Failing });
    }
    let answer = call.send(key, args.verbose, console).await?;
    console.print(&String::from_utf8_lossy(&answer.body))?;
    if !args.verbose && answer.status.as_u16() >= 400 {
        console.progress(&format!("{}: {}", call.uri, answer.status));
    }
    Ok(exit_of(&answer))
}

/// One request of a caller.
struct Call<'a> {
    platform: &'a Platform,
    caller: &'a Caller,
    /// The called service; none: the address is of none.
    target: Option<String>,
    method: Method,
    uri: Uri,
    body: String,
}

impl Call<'_> {
    /// Sends it with the API key, or with a token.
    async fn send(&self, key: Option<HeaderValue>, is_verbose: bool, console: &mut Console) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        let credential = match (key, &self.target) {
            (Some(key), _) => {
                headers.insert(API_KEY_HEADER, key);
                "API key".to_owned()
            }
            (None, Some(target)) => {
                let token = self.caller.token(self.platform, target, None, None).await?;
                headers.insert(AUTHORIZATION, bearer(&token.access_token)?);
                format!("token for {target}, valid for {} s", token.expires_in)
            }
            (None, None) => "certificate only".to_owned(),
        };
        if !self.body.is_empty() {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let expected = self.target.as_deref().map(|target| self.platform.identity(target, self.caller)).transpose()?;
        if is_verbose {
            console.progress(&format!("{} {}", self.method, self.uri));
            console.progress(&format!("credential: {credential}"));
        }
        let (method, uri) = (self.method.clone(), self.uri.clone());
        let answer = self.caller.call(method, uri, headers, self.body.clone(), expected).await?;
        if is_verbose {
            if let Some(peer) = &answer.peer {
                console.progress(&format!(
                    "server: {} of {}, valid until {}",
                    peer.spiffe_id, peer.issuer, peer.not_after
                ));
            }
            console.progress(&format!("status: {}", answer.status));
        }
        Ok(answer)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| Failure::failing("the token issuer sent a token that is no header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn exit_of(answer: &Answer) -> Exit {
    if answer.status.as_u16() >= 400 { Exit::Failing } else { Exit::Done }
}

/// Parses `[METHOD] URL [BODY]`.
fn parse_request(words: &[String]) -> Result<(Method, Uri, String), Failure> {
    let is_url = |word: &String| word.contains("://");
    let (method, rest) = match words {
        [first, rest @ ..] if !is_url(first) && !rest.is_empty() => (Some(first), rest),
        all => (None, all),
    };
    let [url, body @ ..] = rest else {
        return Err(
            Failure::usage("call: the URL is missing").next("gaia call https://localhost:8443/health --as gateway")
        );
    };
    let body = body.first().cloned().unwrap_or_default();
    let default = if body.is_empty() { "GET" } else { "POST" };
    let method = method.map_or_else(|| default.to_owned(), |method| method.to_uppercase());
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| {
        Failure::usage(format!("{method:?} is no method of HTTP")).next("write GET, POST, PUT or DELETE")
    })?;
    Ok((method, mesh::parse_uri(url)?, body))
}

fn read_key(file: &Path) -> Result<HeaderValue, Failure> {
    let wrong = |why: String| Failure::usage(format!("--api-key-file {}: {why}", file.display()));
    let text = read_bounded(file).map_err(|error| wrong(error.to_string()))?;
    let mut value =
        HeaderValue::from_bytes(text.trim_ascii()).map_err(|_| wrong("it is not one line of text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
