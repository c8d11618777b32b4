//! The pages in a real browser, on real services, as a user sees them.

mod by_gateway;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use gaia_e2e::browser::{Browser, key};
use gaia_e2e::wait;
use gaia_stand_ins::gotrue::Behaviour;
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::json;

use crate::web::support::{EMAIL, PASSWORD, Setting, Stage};

#[tokio::test]
async fn a_person_signs_in_talks_looks_who_they_are_and_signs_out() {
    let Some(stage) = Stage::set(Setting { pause: Duration::from_millis(150), ..Setting::default() }).await else {
        return;
    };
    let browser = &stage.browser;
    stage.goto("/files").await;
    browser.wait_at("/sign-in?next=%2Ffiles").await.unwrap();

    browser.type_into("#email", EMAIL).await.unwrap();
    browser.type_into("#password", "not it").await.unwrap();
    browser.click("button.main").await.unwrap();
    browser.wait_for("#notice[data-code='invalid_credentials']").await.unwrap();
    assert_eq!(browser.run("return document.querySelector('#email').value").await.unwrap(), EMAIL);
    browser.type_into("#password", PASSWORD).await.unwrap();
    browser.click("button.main").await.unwrap();
    browser.wait_at("/files").await.unwrap();

    browser.click("nav a[href='/chat']").await.unwrap();
    browser.wait_at("/chat").await.unwrap();
    let asked = "one two three four five six seven eight";
    browser.type_into("#message", asked).await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    let mut lengths = BTreeSet::new();
    let complete = async || -> anyhow::Result<()> {
        let said = browser.text("#log .assistant .text").await?;
        lengths.insert(said.len());
        anyhow::ensure!(said == format!("You said: {asked}"), "{said:?}");
        anyhow::ensure!(browser.count("#log[aria-busy='false']").await? == 1, "the answer is not complete yet");
        Ok(())
    };
    wait::until("the answer is complete", SOON, complete).await.unwrap();
    assert!(lengths.len() > 3, "it came in pieces: {lengths:?}");
    assert_eq!(stage.provider.received().len(), 1);
    assert_eq!(browser.text("#chat-status").await.unwrap(), "The answer is complete.");
    // A line break is not a submit.
    browser.type_into("#message", &["a", key::SHIFT, key::ENTER, key::RELEASE, "b"].concat()).await.unwrap();
    assert_eq!(browser.run("return document.querySelector('#message').value").await.unwrap(), "a\nb");

    browser.click("nav a[href='/me']").await.unwrap();
    let subject = browser.text("#subject").await.unwrap();
    assert!(subject.starts_with("user:supabase:") && subject.len() == 50, "{subject}");
    for (css, known) in [
        ("#credential-asset-service", "With your JWT."),
        ("#credential-chat-service", "With your JWT."),
        ("#mode", "Dual"),
    ] {
        assert_eq!(browser.text(css).await.unwrap(), known);
    }
    browser.click("nav a[href='/chat']").await.unwrap();
    browser.wait_text("#log", asked).await.unwrap();

    browser.click(".out button").await.unwrap();
    browser.wait_at("/sign-in?why=out").await.unwrap();
    browser.wait_text("#main", "You are signed out.").await.unwrap();
    assert_eq!(browser.run("return sessionStorage.length").await.unwrap(), 0, "nothing of the conversation stays");
    assert_eq!(stage.login.requests("/logout"), 1);
    stage.goto("/me").await;
    browser.wait_at("/sign-in?next=%2Fme").await.unwrap();
    stage.assert_nothing_amiss(&["status of 401"]).await;
}

#[tokio::test]
async fn files_are_uploaded_with_progress_downloaded_and_deleted() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    stage.sign_in().await;
    stage.goto("/files").await;
    browser.wait_text("#empty", "No files yet.").await.unwrap();

    let large = stage.dir.path().join("holiday film.bin");
    let content: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(&large, &content).unwrap();
    let small = stage.dir.path().join("grüße #1.txt");
    std::fs::write(&small, "hello").unwrap();
    // A slow answer, so that its parts are visible.
    let slow = json!({ "offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2 * 1024 * 1024 });
    browser.command("Network.enable", &json!({})).await.unwrap();
    browser.command("Network.emulateNetworkConditions", &slow).await.unwrap();
    browser.type_into("#file", &format!("{}\n{}", large.display(), small.display())).await.unwrap();
    browser.click("#upload button").await.unwrap();
    let mut seen = BTreeSet::new();
    let uploaded = async || {
        if let Ok(state) = browser.text("#uploads li:first-child .state").await {
            seen.insert(state);
        }
        browser.url().await.is_ok_and(|url| url.ends_with("/files?done=uploaded"))
    };
    wait::until("both are uploaded", SOON, uploaded).await.unwrap();
    assert!(seen.iter().filter(|state| state.ends_with('%')).count() > 1, "progress was to be seen: {seen:?}");
    let fast = json!({ "offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
    browser.command("Network.emulateNetworkConditions", &fast).await.unwrap();

    browser.wait_text("[role='status'].note", "Uploaded.").await.unwrap();
    let rows = browser.text("tbody").await.unwrap();
    assert!(rows.contains("grüße #1.txt") && rows.contains("holiday film.bin") && rows.contains("8.0 MiB"), "{rows}");
    let downloads = stage.dir.path().join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    let allow = json!({ "behavior": "allow", "downloadPath": downloads });
    browser.command("Browser.setDownloadBehavior", &allow).await.unwrap();
    for name in ["grüße #1.txt", "holiday film.bin"] {
        browser.click(&format!("a[aria-label='Download {name}']")).await.unwrap();
        let there = async || downloads.join(name).is_file();
        wait::until(&format!("{name} is downloaded"), SOON, there).await.unwrap();
    }
    assert_eq!(std::fs::read(downloads.join("holiday film.bin")).unwrap(), content);
    assert_eq!(std::fs::read_to_string(downloads.join("grüße #1.txt")).unwrap(), "hello");

    browser.click("button[aria-label='Delete holiday film.bin']").await.unwrap();
    browser.accept_question().await.unwrap();
    browser.wait_at("/files?done=deleted").await.unwrap();
    let rows = browser.text("tbody").await.unwrap();
    assert!(!rows.contains("holiday") && rows.contains("grüße"), "{rows}");
    stage.assert_nothing_amiss(&[]).await;
}

#[tokio::test]
async fn without_scripts_everything_works_but_looks_plainer() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    browser.command("Emulation.setScriptExecutionDisabled", &json!({ "value": true })).await.unwrap();
    stage.sign_in().await;
    for (message, answers) in [("first words", 1), ("second words", 2)] {
        browser.type_into("#message", message).await.unwrap();
        browser.click("#send").await.unwrap();
        let answered = async || browser.count("#log .assistant").await.is_ok_and(|count| count == answers);
        wait::until("there is an answer", SOON, answered).await.unwrap();
        browser.wait_text("#log .assistant:last-child", &format!("You said: {message}")).await.unwrap();
    }
    stage.goto("/files").await;
    let file = stage.dir.path().join("a.txt");
    std::fs::write(&file, "hello").unwrap();
    browser.type_into("#file", file.to_str().unwrap()).await.unwrap();
    browser.click("#upload button").await.unwrap();
    browser.wait_at("/files?done=uploaded").await.unwrap();
    browser.click("button[aria-label='Delete a.txt']").await.unwrap();
    browser.wait_at("/files?done=deleted").await.unwrap();
    browser.click(".out button").await.unwrap();
    browser.wait_at("/sign-in?why=out").await.unwrap();
    stage.assert_nothing_amiss(&[]).await;
}

#[tokio::test]
async fn a_session_outlives_its_token_and_ends_when_its_issuer_says_so() {
    // A token of less than two minutes is replaced in the second half of its life: this one after seven seconds.
    let setting = Setting { token_life: SignedDuration::from_secs(14), ..Setting::default() };
    let Some(stage) = Stage::set(setting).await else { return };
    let browser = &stage.browser;
    stage.sign_in().await;
    stage.goto("/me").await;
    let first = browser.run(EXPIRES).await.unwrap();
    let renewed = async || {
        stage.goto("/me").await;
        browser.run(EXPIRES).await.is_ok_and(|expires| expires != first)
    };
    wait::until("the token is another one", SOON, renewed).await.unwrap();
    assert!(stage.login.requests("/token?grant_type=refresh_token") >= 1);

    // auth-service does not answer: the session's state is unknown, and the token is still valid.
    stage.login.behave("/token?grant_type=refresh_token", Behaviour::Fail(StatusCode::SERVICE_UNAVAILABLE));
    let asked = stage.login.requests("/token?grant_type=refresh_token");
    let tried = async || {
        stage.goto("/me").await;
        stage.login.requests("/token?grant_type=refresh_token") > asked
    };
    wait::until("a refresh was tried", SOON, tried).await.unwrap();
    browser.wait_text("#main", EMAIL).await.unwrap();
    // The session is ended elsewhere.
    let ended = r#"{"code":400,"error_code":"session_expired","msg":"Invalid Refresh Token: Session Expired"}"#;
    let ended = Behaviour::Answer(StatusCode::BAD_REQUEST, ended.to_owned());
    stage.login.behave("/token?grant_type=refresh_token", ended);
    let ended = async || {
        stage.goto("/me").await;
        browser.url().await.is_ok_and(|url| url.ends_with("/sign-in?next=%2Fme&why=ended"))
    };
    wait::until("the session has ended", SOON, ended).await.unwrap();
    browser.wait_text("#notice", "Your session has ended.").await.unwrap();
    stage.assert_nothing_amiss(&[]).await;
}

#[tokio::test]
async fn a_person_comes_back_from_a_provider_signed_in() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    stage.goto("/sign-in?next=%2Ffiles").await;
    stage.assert_nothing_amiss(&[]).await;
    browser.click("a[href^='/auth/start/github']").await.unwrap();
    browser.wait_for("input[name='login_hint']").await.unwrap();
    assert!(browser.url().await.unwrap().starts_with(stage.login.base_url()));
    browser.type_into("input[name='login_hint']", EMAIL).await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    browser.wait_at("/files").await.unwrap();
    browser.wait_text(".person", EMAIL).await.unwrap();
}

#[tokio::test]
async fn while_nobody_can_sign_in_the_page_says_so() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    stage.goto("/sign-in").await;
    stage.lose_auth_service();
    browser.type_into("#email", EMAIL).await.unwrap();
    browser.type_into("#password", PASSWORD).await.unwrap();
    browser.click("button.main").await.unwrap();
    browser.wait_for("#notice[data-code='login_unavailable']").await.unwrap();
    stage.assert_nothing_amiss(&["status of 503"]).await;
}

#[tokio::test]
async fn seconds_until_another_attempt_are_counted_down() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    stage.login.behave("/token?grant_type=password", Behaviour::Fail(StatusCode::TOO_MANY_REQUESTS));
    stage.goto("/sign-in").await;
    browser.type_into("#email", EMAIL).await.unwrap();
    browser.type_into("#password", PASSWORD).await.unwrap();
    browser.click("button.main").await.unwrap();
    browser.wait_text("#notice", "Please try again in").await.unwrap();
    let left = "const left = document.querySelector('[data-wait]'); return left ? parseInt(left.textContent) : 0";
    let disabled = "return document.querySelector('button.main').disabled";
    assert_eq!(browser.run(disabled).await.unwrap(), true, "the form waits");
    let first = browser.run(left).await.unwrap().as_u64().unwrap();
    assert!((20..=30).contains(&first), "{first}");
    let goes_down = async || browser.run(left).await.is_ok_and(|now| now.as_u64().is_some_and(|now| now < first));
    wait::until("the seconds go down", SOON, goes_down).await.unwrap();
    // The clock decides: a page that waited in the background is not delayed again.
    let later = "const now = Date.now; Date.now = () => now() + 60000; return true";
    browser.run(later).await.unwrap();
    browser.wait_text("#notice", "You can try again now").await.unwrap();
    assert_eq!(browser.run(disabled).await.unwrap(), false);
    stage.login.behave("/token?grant_type=password", Behaviour::Normal);
    browser.type_into("#password", PASSWORD).await.unwrap();
    browser.click("button.main").await.unwrap();
    browser.wait_at("/chat").await.unwrap();
    stage.assert_nothing_amiss(&["status of 429"]).await;
}

#[tokio::test]
async fn without_an_issuer_the_page_says_that_sign_in_is_off() {
    let Some(stage) = Stage::set(Setting { has_issuer: false, ..Setting::default() }).await else { return };
    stage.goto("/").await;
    stage.browser.wait_at("/sign-in").await.unwrap();
    stage.browser.wait_for("#main [data-code='sign_in_disabled']").await.unwrap();
    assert_eq!(stage.browser.count("form, input").await.unwrap(), 0);
    stage.assert_nothing_amiss(&[]).await;
}

#[tokio::test]
async fn an_answer_that_is_stopped_or_breaks_off_says_so() {
    let Some(stage) = Stage::set(Setting { pause: Duration::from_millis(300), ..Setting::default() }).await else {
        return;
    };
    let browser = &stage.browser;
    stage.sign_in().await;
    browser.type_into("#message", &"word ".repeat(200)).await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    browser.wait_text("#log .assistant .text", "You said: word").await.unwrap();
    browser.click("#stop").await.unwrap();
    browser.wait_text("#log .assistant .cut", "Stopped.").await.unwrap();
    let let_go = async || stage.provider.open_answers() == 0;
    wait::until("the provider is not kept busy", SOON, let_go).await.unwrap();

    browser.type_into("#message", "!500").await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    browser.wait_for("#chat-error").await.unwrap();
    let kept = browser.run("return document.querySelector('#message').value").await.unwrap();
    assert_eq!(kept, "!500", "an unanswered message can be sent again");
    stage.assert_nothing_amiss(&["status of 5"]).await;
}

#[tokio::test]
async fn everything_can_be_done_by_keyboard_and_everything_has_a_name() {
    let Some(stage) = Stage::set(Setting::default()).await else { return };
    let browser = &stage.browser;
    stage.goto("/sign-in").await;
    let focus = async |name: &str| {
        let has_it = async || browser.focused().await.is_ok_and(|focused| focused.name == name);
        wait::until(&format!("the first thing to do has the focus: {name}"), SOON, has_it).await.unwrap();
    };
    focus("Email").await;
    browser.press(EMAIL).await.unwrap();
    browser.press(key::TAB).await.unwrap();
    browser.press(PASSWORD).await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    browser.wait_at("/chat").await.unwrap();
    focus("Your message").await;
    assert_all_named(browser).await;

    stage.goto("/me").await;
    browser.press(key::TAB).await.unwrap();
    assert_eq!(browser.focused().await.unwrap().name, "Skip to content");
    let mut stops = Vec::new();
    for _ in 0..5 {
        browser.press(key::TAB).await.unwrap();
        stops.push(browser.focused().await.unwrap().name);
    }
    assert_eq!(stops, ["Gaia", "Chat", "Files", "Who am I", "Sign out"]);
    assert_all_named(browser).await;
    browser.press(key::ENTER).await.unwrap();
    browser.wait_at("/sign-in?why=out").await.unwrap();
    stage.assert_nothing_amiss(&[]).await;
}

/// A screen reader gets a name for everything on the page.
async fn assert_all_named(browser: &Browser) {
    let told = browser
        .all_told("a, button:not([hidden]), input:not([type=hidden]), textarea, nav, [role='log']")
        .await
        .unwrap();
    assert!(told.len() > 5);
    for told in &told {
        assert!(!told.name.trim().is_empty(), "{told:?} has no name among {told:?}");
    }
    let landmarks: BTreeSet<String> =
        browser.all_told("header, main, nav").await.unwrap().into_iter().map(|told| told.role).collect();
    assert_eq!(landmarks, BTreeSet::from(["banner", "main", "navigation"].map(str::to_owned)));
    assert_eq!(browser.count("h1").await.unwrap(), 1);
}

/// With `WEB_SCREENSHOTS` set to a directory, screenshots are written there.
#[tokio::test]
async fn the_pages_fit_any_screen_and_can_be_read_in_light_and_dark() {
    let Some(stage) = Stage::set(Setting { pause: Duration::ZERO, ..Setting::default() }).await else { return };
    let browser = &stage.browser;
    look_at(&stage, "sign-in").await;
    stage.sign_in().await;
    browser.type_into("#message", "What does mutual TLS prove that a bearer token does not?").await.unwrap();
    browser.press(key::ENTER).await.unwrap();
    browser.wait_text("#chat-status", "complete").await.unwrap();
    look_at(&stage, "chat").await;
    stage.goto("/files").await;
    for name in [
        "minutes of the meeting in May.md",
        "report.pdf",
        "a-very-long-name-without-any-place-to-break-it-at-all-that-goes-on-and-on.tar.gz",
    ] {
        let file = stage.dir.path().join(name);
        std::fs::write(&file, "x".repeat(34_567)).unwrap();
        browser.type_into("#file", file.to_str().unwrap()).await.unwrap();
    }
    browser.click("#upload button").await.unwrap();
    browser.wait_at("/files?done=uploaded").await.unwrap();
    look_at(&stage, "files").await;
    stage.goto("/me").await;
    look_at(&stage, "me").await;
    stage.goto("/no/such/page").await;
    look_at(&stage, "nothing").await;
}

async fn look_at(stage: &Stage, page: &str) {
    if page == "sign-in" {
        stage.goto("/sign-in").await;
    }
    for (width, height) in [(1200, 800), (390, 780), (320, 640)] {
        for colours in ["light", "dark"] {
            stage.browser.look(width, height, colours).await.unwrap();
            let wrong = stage.browser.run(include_str!("support/inspect.js")).await.unwrap();
            assert_eq!(wrong, json!([]), "{page}, {width} wide, {colours}");
            if let Some(folder) = std::env::var_os("WEB_SCREENSHOTS") {
                let file = Path::new(&folder).join(format!("{page}-{width}-{colours}.png"));
                std::fs::write(file, stage.browser.screenshot().await.unwrap()).unwrap();
            }
        }
    }
    stage.browser.look(1200, 800, "light").await.unwrap();
}

const EXPIRES: &str = "return document.querySelector('#expires').dateTime";
const SOON: Duration = Duration::from_secs(60);
