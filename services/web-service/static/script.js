// Progressive enhancement. Every page works without scripts.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".with-script")) element.hidden = false;
  for (const form of document.querySelectorAll("form[data-confirm]")) {
    form.addEventListener("submit", (event) => {
      if (!window.confirm(form.dataset.confirm)) event.preventDefault();
    });
  }
  for (const form of document.querySelectorAll("form[data-once]")) {
    form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
  }
  // A conversation is deleted when the session ends.
  document.querySelector(".out")?.addEventListener("submit", () => sessionStorage.clear());
  if (document.querySelector("#email")) sessionStorage.clear();
  localTimes();
  countDown();
  if (document.querySelector("#chat")) chat();
  if (document.querySelector("#upload")) files();
});

// A page restored from the back/forward cache keeps its state, so its button is enabled again.
window.addEventListener("pageshow", () => {
  if (document.querySelector("[data-wait]")) return;
  for (const button of document.querySelectorAll("form[data-once] button")) button.disabled = false;
});

// Shows times in the user's time zone and locale.
function localTimes() {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const element of document.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    if (!Number.isNaN(time.getTime())) element.textContent = format.format(time);
  }
}

// Counts down the seconds until another attempt and disables the form until then. It uses the clock, because timers are
// paused in background tabs.
function countDown() {
  const left = document.querySelector("[data-wait]");
  if (!left) return;
  const notice = left.closest("#notice");
  const button = document.querySelector("form[data-once] button");
  const end = Date.now() + Number(left.dataset.wait) * 1000;
  // Role of a countdown: screen readers do not announce each second.
  notice.setAttribute("role", "timer");
  const tick = () => {
    const seconds = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    button.disabled = seconds > 0;
    if (seconds > 0) {
      left.textContent = `${seconds} ${seconds === 1 ? "second" : "seconds"}`;
      return;
    }
    clearInterval(timer);
    notice.textContent = "You can try again now.";
    notice.className = "note";
    notice.setAttribute("role", "status");
  };
  const timer = setInterval(tick, 250);
  tick();
}

// Returns the message of an error response; redirects to the sign-in page if the user is signed out.
function reasonOf(status, text) {
  let problem = {};
  try { problem = JSON.parse(text); } catch { /* Whatever it is, it is none of ours. */ }
  if (status === 401) {
    const why = problem.code === "session_ended" ? "&why=ended" : "";
    window.location.assign(`/sign-in?next=${encodeURIComponent(window.location.pathname)}${why}`);
  }
  return problem.detail || "The request failed. Try again in a minute.";
}

// ---- Chat -------------------------------------------------------------------------------------------------------

function chat() {
  const root = document.querySelector("#chat");
  const log = document.querySelector("#log");
  const hello = document.querySelector("#hello");
  const composer = document.querySelector("#composer");
  const message = document.querySelector("#message");
  const send = document.querySelector("#send");
  const stop = document.querySelector("#stop");
  const error = document.querySelector("#chat-error");
  const status = document.querySelector("#chat-status");
  const kept = `chat ${root.dataset.person}`;
  let turns = [];
  let running = null;

  const nearEnd = () => document.documentElement.scrollHeight - window.innerHeight - window.scrollY < 120;
  const toEnd = () => window.scrollTo({ top: document.documentElement.scrollHeight });
  const keep = () => {
    try { sessionStorage.setItem(kept, JSON.stringify(turns)); } catch { /* It is full: then it is not kept. */ }
  };

  function show(turn) {
    const item = document.createElement("li");
    item.className = `turn ${turn.role}`;
    const who = document.createElement("span");
    who.className = "who";
    who.textContent = turn.role === "user" ? "You" : "Assistant";
    const text = document.createElement("div");
    text.className = "text";
    text.textContent = turn.content;
    item.append(who, text);
    log.append(item);
    if (hello) hello.hidden = true;
    return item;
  }

  function fail(text) {
    error.textContent = text;
    error.hidden = false;
  }

  function begin() {
    running = new AbortController();
    error.hidden = true;
    send.hidden = true;
    stop.hidden = false;
    log.setAttribute("aria-busy", "true");
    status.textContent = "The assistant is answering.";
  }

  function end(said) {
    running = null;
    send.hidden = false;
    stop.hidden = true;
    log.setAttribute("aria-busy", "false");
    status.textContent = said;
    message.focus();
  }

  async function ask(text) {
    const mine = { role: "user", content: text };
    const asked = show(mine);
    begin();
    const item = show({ role: "assistant", content: "" });
    item.classList.add("busy");
    toEnd();
    const place = item.querySelector(".text");
    const answer = { role: "assistant", content: "" };
    const add = (piece) => {
      const follow = nearEnd();
      answer.content += piece;
      place.textContent = answer.content;
      if (follow) toEnd();
    };
    let trouble = null;
    try {
      trouble = await stream([...turns, mine], add, running.signal);
    } catch (failure) {
      trouble = failure.name === "AbortError" ? "" : "The connection was lost. Try again in a minute.";
    }
    item.classList.remove("busy");
    if (answer.content.trim()) {
      turns.push(mine, answer);
      keep();
      if (trouble !== null) cut(item, trouble === "" ? "Stopped." : "The answer was interrupted here.");
    } else {
      // No answer: the message is put back into the form so that it can be sent again.
      item.remove();
      asked.remove();
      if (hello) hello.hidden = turns.length > 0;
      if (!message.value) message.value = text;
      if (trouble === null) trouble = "The assistant returned no answer. Try again, or rephrase your message.";
    }
    if (trouble) fail(trouble);
    end(trouble === null ? "The answer is complete." : "The answer is incomplete.");
  }

  function cut(item, text) {
    const note = document.createElement("span");
    note.className = "cut";
    note.textContent = text;
    item.append(note);
  }

  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = message.value.trim();
    if (!text || running) return;
    message.value = "";
    ask(text);
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      composer.requestSubmit();
    }
  });
  stop.addEventListener("click", () => running?.abort());
  document.querySelector("#new-chat").addEventListener("click", () => {
    running?.abort();
    turns = [];
    sessionStorage.removeItem(kept);
    window.location.assign("/chat");
  });

  try { turns = JSON.parse(sessionStorage.getItem(kept)) || []; } catch { turns = []; }
  // A conversation in the page (sent without a script) is newer.
  const inPage = composer.elements.history.value;
  if (inPage) {
    turns = JSON.parse(inPage);
    keep();
  } else {
    turns.forEach(show);
    if (turns.length) toEnd();
  }
}

// Finish reasons of incomplete answers.
const CUT_OFF = {
  length: "The answer reached the model's limit. Ask for the rest, or for a shorter answer.",
  content_filter: "The provider's content filter stopped the answer.",
};

// Sends a conversation and passes the parts of the answer on; returns null on success, otherwise the message to show.
async function stream(messages, add, signal) {
  const response = await fetch("/chat/stream", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Accept": "text/event-stream" },
    body: JSON.stringify({ messages }),
    signal,
  });
  if (!response.ok) return reasonOf(response.status, await response.text());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return "The answer was interrupted. Try again in a minute.";
    rest += value;
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const { name, data } = eventOf(event);
      if (name === "delta") add(JSON.parse(data).text);
      if (name === "done") return CUT_OFF[JSON.parse(data).finish_reason] ?? null;
      if (name === "error") return "The assistant failed. Try again in a minute.";
    }
  }
}

function eventOf(text) {
  let name = "message";
  const data = [];
  for (const line of text.split(/\r?\n/)) {
    const at = line.indexOf(":");
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (field === "event") name = value;
    if (field === "data") data.push(value);
  }
  return { name, data: data.join("\n") };
}

// ---- Files ------------------------------------------------------------------------------------------------------

function files() {
  const form = document.querySelector("#upload");
  const input = document.querySelector("#file");
  const list = document.querySelector("#uploads");
  const status = document.querySelector("#files-status");

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    uploadAll([...input.files]);
  });
  for (const name of ["dragenter", "dragover"]) {
    form.addEventListener(name, (event) => {
      event.preventDefault();
      form.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) form.addEventListener(name, () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    uploadAll([...event.dataTransfer.files]);
  });

  async function uploadAll(chosen) {
    if (!chosen.length) return;
    const button = form.querySelector("button");
    button.disabled = true;
    list.hidden = false;
    list.replaceChildren();
    status.textContent = chosen.length === 1 ? "Uploading one file." : `Uploading ${chosen.length} files.`;
    const rows = chosen.map((file) => [file, row(file)]);
    let failed = 0;
    for (const [file, item] of rows) {
      // The first attempt may have found which credential the service accepts; the second one uses it.
      const worked = await upload(file, item, 2);
      if (!worked) failed += 1;
    }
    button.disabled = false;
    input.value = "";
    if (failed) {
      status.textContent = `${failed} of ${chosen.length} could not be uploaded.`;
    } else {
      window.location.assign("/files?done=uploaded");
    }
  }

  function row(file) {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = file.name;
    const state = document.createElement("span");
    state.className = "state";
    state.textContent = "waiting";
    const progress = document.createElement("progress");
    progress.max = 100;
    progress.value = 0;
    progress.setAttribute("aria-label", `Upload of ${file.name}`);
    item.append(name, state, progress);
    list.append(item);
    return item;
  }

  function upload(file, item, attempts) {
    const state = item.querySelector(".state");
    const progress = item.querySelector("progress");
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      const fail = (text) => {
        item.classList.add("failed");
        state.textContent = text;
        progress.remove();
        resolve(false);
      };
      request.open("PUT", `/files/${encodeURIComponent(file.name)}`);
      request.setRequestHeader("Accept", "application/json");
      request.upload.addEventListener("progress", (event) => {
        if (!event.lengthComputable) return;
        const percent = Math.floor((100 * event.loaded) / event.total);
        progress.value = percent;
        state.textContent = `${percent} %`;
      });
      request.addEventListener("load", () => {
        if (request.status < 300) {
          progress.value = 100;
          state.textContent = "done";
          resolve(true);
        } else if (request.status === 502 && attempts > 1) {
          resolve(upload(file, item, attempts - 1));
        } else {
          fail(reasonOf(request.status, request.responseText));
        }
      });
      request.addEventListener("error", () => fail("The connection was lost."));
      request.send(file);
    });
  }
}
