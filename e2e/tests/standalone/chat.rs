//! chat-service as a process, with a provider that injects faults on request, called by curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gaia_api::names::key;
use gaia_e2e::{Curl, Standalone, wait};
use gaia_runtime::testing::{Platform, api_keys};
use gaia_stand_ins::provider::{KEY, Provider, ProviderOptions};
use serde_json::{Value, json};

struct Chat {
    platform: Platform,
    provider: Provider,
    service: Standalone,
    key_file: PathBuf,
    dir: tempfile::TempDir,
}

impl Chat {
    async fn start() -> Self {
        let platform = Platform::new();
        let provider = Provider::start(ProviderOptions::default()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut files = platform.mount("chat-service");
        files.insert(key::API_KEYS, api_keys(&[("app", API_KEY, &[])]));
        let web = dir.path().join("web");
        fs::create_dir(&web).unwrap();
        for (name, content) in platform.mount("gateway") {
            fs::write(web.join(name), content).unwrap();
        }
        let key_file = dir.path().join("provider-key");
        fs::write(&key_file, KEY).unwrap();
        let (url, key) = (provider.url(), key_file.display().to_string());
        let env = [("GAIA_PROVIDER_URL", &*url), ("GAIA_PROVIDER_KEY_FILE", &*key), ("GAIA_PROVIDER_MODEL", "echo-1")];
        let service = Standalone::start("chat-service", dir.path(), &files, &env).await.unwrap();
        Self { platform, provider, service, key_file, dir }
    }

    fn caller(&self) -> PathBuf {
        self.dir.path().join("web")
    }

    fn url(&self) -> String {
        format!("https://{}/chat", self.service.mesh)
    }

    fn say(&self, text: &str) -> Curl {
        Curl::to(&self.url(), &self.caller()).json(&question(text))
    }

    fn log(&self) -> String {
        let entries = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
        assert!(!logs.is_empty());
        logs.iter().map(|log| fs::read_to_string(log).unwrap()).collect()
    }
}

fn question(text: &str) -> String {
    json!({ "messages": [{ "role": "user", "content": text }] }).to_string()
}

#[tokio::test]
async fn curl_gets_streamed_and_whole_answers_and_error_codes() {
    let chat = Chat::start().await;
    let token = chat.platform.service_token("gateway", "chat-service", Some("chat:write"));
    for call in [chat.say("tell me").api_key(API_KEY), chat.say("tell me").as_peer(&chat.caller()).bearer(&token)] {
        let stream = call.send().await.unwrap().expect(200).unwrap();
        let events: Vec<&str> = stream.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events[0], "event: delta\ndata: {\"text\":\"You \"}");
        assert_eq!(*events.last().unwrap(), "event: done\ndata: {\"finish_reason\":\"stop\"}");
    }
    let whole = chat.say("tell me").api_key(API_KEY).header("Accept: application/json").send().await.unwrap();
    let whole: Value = serde_json::from_str(&whole.expect(200).unwrap()).unwrap();
    assert_eq!(whole, json!({ "text": "You said: tell me", "finish_reason": "stop" }));

    let limited = chat.say("!429 7").api_key(API_KEY).send().await.unwrap();
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("7")));
    assert!(limited.body.contains(r#""code":"provider_rate_limited""#), "{}", limited.body);
    let cut = chat.say("!cut").api_key(API_KEY).send().await.unwrap().expect(200).unwrap();
    assert!(cut.contains("event: error\ndata: {\"code\":\"provider_interrupted\""), "{cut}");
    assert_eq!(chat.say("hello").send().await.unwrap().status, 401);
    assert_eq!(chat.provider.received().len(), 5);
}

#[tokio::test]
async fn no_secret_is_sent_to_the_wrong_party() {
    let chat = Chat::start().await;
    let token = chat.platform.service_token("gateway", "chat-service", Some("chat:write"));
    let mut answers = String::new();
    for wish in ["hello", "!401", "!500", "!error", "!cut", "!garbage"] {
        answers.push_str(&chat.say(wish).api_key(API_KEY).send().await.unwrap().body);
        let by_token = chat.say(wish).as_peer(&chat.caller()).bearer(&token);
        answers.push_str(&by_token.send().await.unwrap().body);
    }
    fs::write(&chat.key_file, "a-key-that is-none").unwrap();
    answers.push_str(&chat.say("hello").api_key(API_KEY).send().await.unwrap().body);
    let received: String = chat.provider.received().iter().map(|request| format!("{:?}", request.headers)).collect();
    for secret in [API_KEY, token.as_str()] {
        assert!(!received.contains(secret), "the provider was sent a credential of a caller");
    }
    let (log, metrics) = (chat.log(), chat.service.metrics().await.unwrap());
    assert!(log.contains("the provider failed"), "{log}");
    for (place, text) in [("answers", &answers), ("log", &log), ("metrics", &metrics)] {
        for secret in [API_KEY, token.as_str(), KEY, "a-key-that"] {
            assert!(!text.contains(secret), "{secret} is in the {place}");
        }
    }
}

#[tokio::test]
async fn the_providers_key_is_replaced_without_a_restart() {
    let chat = Chat::start().await;
    let pid = chat.service.pid();
    chat.provider.set_key("the-next-key");
    assert_eq!(chat.say("hello").api_key(API_KEY).send().await.unwrap().status, 502);
    fs::write(&chat.key_file, "the-next-key\n").unwrap();
    chat.say("hello").api_key(API_KEY).send().await.unwrap().expect(200).unwrap();
    assert_eq!(chat.service.pid(), pid);
}

#[tokio::test]
async fn when_curl_is_killed_the_provider_is_hung_up_on() {
    let chat = Chat::start().await;
    let mut curl = hanging(&chat.url(), &chat.caller(), &question("!stall")).spawn().unwrap();
    let is_asked = async || chat.provider.open_answers() == 1;
    wait::until("the provider is asked", SOON, is_asked).await.unwrap();
    curl.kill().unwrap();
    curl.wait().unwrap();
    let is_alone = async || chat.provider.open_answers() == 0;
    wait::until("the provider is hung up on", SOON, is_alone).await.unwrap();
}

fn hanging(url: &str, trust: &Path, body: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--no-buffer", "--noproxy", "*", "--json", body, "--url", url]);
    curl.arg("--header").arg(format!("X-API-Key: {API_KEY}")).arg("--cacert").arg(trust.join(key::CA_CERT));
    curl.stdout(Stdio::null()).stderr(Stdio::null());
    curl
}

const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(60);
