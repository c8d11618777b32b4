//! curl as an independent client: HTTPS calls with the mounted files, like any program in a pod.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::process;
use crate::services::ServiceProcess;

/// One call.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before `send`"]
pub struct Curl {
    args: Vec<OsString>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Status line and headers, unchanged.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Curl {
    /// A call to a service by its name, trusting the roots in the mounted directory `trust`.
    pub fn new(service: &ServiceProcess, path: &str, trust: &Path) -> Self {
        Self::to(&format!("https://{}{path}", service.server_name()), trust)
            .arg("--connect-to", format!("::{}", service.mesh_address()))
    }

    /// A call to any URL, trusting the roots in the mounted directory `trust`.
    pub fn to(url: &str, trust: &Path) -> Self {
        Self { args: Vec::new() }.arg("--cacert", trust.join("ca.crt")).arg("--url", url)
    }

    /// A call to a URL in plain HTTP.
    pub fn plain(url: &str) -> Self {
        Self { args: Vec::new() }.arg("--url", url)
    }

    /// With the client certificate of a mounted directory.
    pub fn as_peer(self, mount: &Path) -> Self {
        self.arg("--cert", mount.join("tls.crt")).arg("--key", mount.join("tls.key"))
    }

    /// With `X-API-Key`.
    pub fn api_key(self, key: &str) -> Self {
        self.header(&format!("X-API-Key: {key}"))
    }

    /// With `Authorization: Bearer`.
    pub fn bearer(self, token: &str) -> Self {
        self.header(&format!("Authorization: Bearer {token}"))
    }

    /// With another header.
    pub fn header(self, header: &str) -> Self {
        self.arg("--header", header)
    }

    /// With this method in place of GET, or of POST where there is a body.
    pub fn method(self, method: &str) -> Self {
        self.arg("--request", method)
    }

    /// With this body, as JSON.
    pub fn json(self, body: &str) -> Self {
        self.header("Content-Type: application/json").body(body)
    }

    /// With this body.
    pub fn body(self, body: &str) -> Self {
        self.arg("--data-binary", body)
    }

    /// With an unchanged path: dot segments are not resolved.
    pub fn as_is(mut self) -> Self {
        self.args.push("--path-as-is".into());
        self
    }

    /// Makes the call.
    ///
    /// # Errors
    /// If there is no HTTP answer, because curl is missing, or TLS or the connection fails: with curl's error.
    pub async fn send(self) -> Result<Answer> {
        let mut command = Command::new("curl");
        command.args(OPTIONS).args(&self.args);
        Answer::of(&process::output(command).await?)
    }

    /// Makes the call from a pod that has curl; paths are the pod's.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_from_pod(self, cluster: &Cluster, namespace: &str, pod: &str) -> Result<Answer> {
        let mut args = vec!["exec", "--namespace", namespace, pod, "--", "curl"];
        args.extend(OPTIONS);
        for arg in &self.args {
            args.push(arg.to_str().context("an argument of curl is not UTF-8")?);
        }
        Answer::of(&cluster.kubectl_output(&args).await?)
    }

    fn arg(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.args.push(name.into());
        self.args.push(value.into());
        self
    }
}

impl Answer {
    fn of(curl: &Output) -> Result<Self> {
        let said = String::from_utf8_lossy(&curl.stderr);
        ensure!(curl.status.success(), "{}: {}", curl.status, said.trim());
        Self::parse(&String::from_utf8_lossy(&curl.stdout))
    }

    fn parse(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\r\n\r\n").context("curl printed no headers")?;
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.with_context(|| format!("no HTTP status in {head:?}"))?;
        // "100 Continue" comes before the answer itself.
        if status < 200 {
            return Self::parse(body);
        }
        Ok(Self { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body, only if the answer has this status.
    ///
    /// # Errors
    /// If the status is another one, with the whole answer.
    pub fn expect(self, status: u16) -> Result<String> {
        ensure!(self.status == status, "expected {status}, got:\n{}\n\n{}", self.head, self.body);
        Ok(self.body)
    }
}

const OPTIONS: [&str; 8] = ["--disable", "--silent", "--show-error", "--include", "--max-time", "20", "--noproxy", "*"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_one_after_the_interim_ones() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/2 401 \r\nWWW-Authenticate: Bearer realm=\"gaia\"\r\n\r\nno\r\n\r\n";
        let answer = Answer::parse(text).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (401, "no\r\n\r\n"));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"gaia\""));
        assert!(answer.expect(200).unwrap_err().to_string().contains("expected 200, got:\nHTTP/2 401"));
    }
}
