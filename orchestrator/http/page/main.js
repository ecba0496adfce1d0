// The page: its controls, and one text at a time from the request to its end.

import { Lanes } from "./lanes.js";
import { Trouble, health, settings, stream } from "./server.js";
import { Story } from "./story.js";
import { Voice, Words } from "./words.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["alpha_fb", "alpha_rb", "window", "max_tokens", "temperature", "seed"];
/** Settings that only the mode `bild` reads. */
const DIALS = ["alpha_fb", "alpha_fb-slide", "alpha_rb", "alpha_rb-slide"];
const MODES = {
  bild: "The text of the Big Little Decoder: quick, and close to the large model's.",
  exact: "The same text as the large model's alone; the small one saves it time. No thresholds.",
  large: "Every token is a pass of the large model: what the others are compared with.",
  small: "Nobody checks: how good the small model is.",
};
/** How often the server is asked how it is, in ms. */
const PULSE = 5000;

const lanes = new Lanes($("lanes"), $("says")), voice = new Voice($("spoken"));
let given = null; // the server's own settings
let talk = []; // messages of this chat
let running = null; // AbortController of the text that is being written

// Controls.

function chatting() {
  return Boolean(given?.chat) && $("chat").checked;
}
function dress() {
  const mode = $("mode").value, busy = running !== null;
  $("mode-hint").textContent = MODES[mode] ?? "";
  for (const id of DIALS) $(id).disabled = mode !== "bild";
  $("window").disabled = mode === "large" || mode === "small";
  $("write").disabled = busy;
  $("stop").disabled = $("stop-here").hidden = !busy;
  $("over").hidden = busy || !talk.length;
  $("prompt-label").textContent = chatting() ? (talk.length ? "Next message" : "Message") : "Prompt";
}
function slide(name) {
  $(`${name}-slide`).addEventListener("input", () => {
    $(name).value = $(`${name}-slide`).value;
  });
  $(name).addEventListener("input", () => {
    $(`${name}-slide`).value = $(name).value;
  });
}
/** Puts the server's settings into the controls. What it leaves open stays empty, and is not sent. */
function fill(options) {
  for (const name of NUMBERS) $(name).value = options[name] ?? "";
  for (const name of ["alpha_fb", "alpha_rb"]) $(`${name}-slide`).value = options[name] ?? $(`${name}-slide`).max;
  $("mode").value = options.mode;
  $("schedule").value = options.schedule ?? "";
}

/** The body of a request: what the controls say, and nothing of those that do not apply. */
function body(prompt) {
  const asked = { mode: $("mode").value, stream: true, bild: { tokens: true, trace: true, events: true } };
  for (const name of NUMBERS) {
    const control = $(name);
    if (!control.disabled && control.value !== "") asked[name] = control.valueAsNumber;
  }
  if ($("schedule").value) asked.schedule = $("schedule").value;
  return chatting() ? { ...asked, messages: [...talk, { role: "user", content: prompt }] } : { ...asked, prompt };
}

// What goes wrong.

function complain(trouble) {
  const box = $("problem"), title = document.createElement("strong"), text = document.createElement("span");
  title.textContent = `${trouble.title}. `;
  text.textContent = trouble.text;
  box.replaceChildren(title, text);
  box.dataset.status = trouble.status;
  box.hidden = false;
  for (const control of document.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  if (trouble.status === 401) {
    $("key-row").hidden = false;
    $("key").setAttribute("aria-invalid", "true");
    $("key").focus();
    return;
  }
  const control = $(trouble.param === "messages" ? "prompt" : trouble.param ?? "");
  if (control?.closest("form")) {
    if (control.closest("details")) control.closest("details").open = true;
    control.setAttribute("aria-invalid", "true");
    control.focus();
  }
}
function clear() {
  $("problem").hidden = true;
  for (const control of document.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}
/** What escaped all plans is a bug of this page, and says so. */
function known(error) {
  return error instanceof Trouble ? error : new Trouble("Something went wrong in this page", String(error));
}

// The server.

async function meet() {
  try {
    given = await settings($("key").value);
  } catch (error) {
    complain(known(error));
    return false;
  }
  clear();
  $("pair").textContent = `${given.small} writes, ${given.large} checks`;
  document.title = `bild: ${given.name}`;
  $("kinds").hidden = !given.chat;
  fill(given.options);
  dress();
  return true;
}
async function pulse() {
  if (document.hidden) return;
  const told = await health(), down = ["small", "large"].filter((role) => !told?.workers?.[role]?.up);
  const good = told?.status === "ok" && !told.draining;
  $("health").className = good ? "good" : "bad";
  let says = "both models are up";
  if (!told) says = "the server does not answer";
  else if (told.draining) says = "the server is shutting down";
  else if (down.length) says = `not available: the ${down.join(" and the ")} model`;
  else if (!good) says = "the models are not available";
  if ($("health").textContent !== says) $("health").textContent = says;
  if (good && given === null && $("key-row").hidden && running === null) await meet();
}

// One text.

function turn(prompt) {
  const article = document.createElement("article"), asked = document.createElement("p"), text = document.createElement("div");
  if (!talk.length) $("turns").replaceChildren();
  asked.className = "asked";
  asked.textContent = prompt;
  text.className = "text";
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "The text, token by token. Left and right arrows go through the tokens.");
  article.append(asked, text);
  $("turns").append(article);
  return new Words(text, $("says"));
}

/** Tells the parts of the page what a chunk says. */
function take(choice, story, words, clock) {
  const shown = choice.bild ?? {};
  for (const event of shown.events ?? []) {
    clock.hear(event.back ?? event.at);
    story.take(event);
    if (event.type === "draft" && !event.stale) words.guess(event.position, event.tokens, event.texts);
    else if (event.type === "verdict" && event.objected) words.strike(event.position + event.accepted);
    else if (event.type === "replaced") words.strike(event.position);
  }
  for (const token of shown.tokens ?? []) {
    words.commit(story.write(token, clock.now()));
    voice.push(token.text);
  }
  if (shown.trace) story.trace = shown.trace;
  if (shown.finish_reason) story.reason = shown.finish_reason;
}

/** The present in the server's time, as well as it is known: no message comes before it was sent. */
class Clock {
  constructor() {
    this.zero = performance.now();
  }
  hear(at) {
    if (at !== undefined) this.zero = Math.min(this.zero, performance.now() - at);
  }
  now() {
    return performance.now() - this.zero;
  }
}

const ENDS = { eos: "the model ended it", stop: "a stop word came", length: "it is as long as it may be" };

async function write() {
  const prompt = $("prompt").value;
  if (running || !prompt.trim()) return;
  clear();
  running = new AbortController();
  if (given === null && !(await meet())) {
    running = null;
    return;
  }
  const chat = chatting(), asked = body(prompt), story = new Story(), clock = new Clock();
  if (!chat) talk = [];
  const words = turn(prompt);
  dress();
  voice.begin();
  lanes.begin(story, () => clock.now());
  $("state").textContent = "Writing …";
  $("says").textContent = "";
  $("results").setAttribute("aria-busy", "true");
  if ($("results").getBoundingClientRect().top > innerHeight * 0.8) $("results").scrollIntoView();
  let end = null;
  try {
    for await (const choice of stream(chat ? "v1/chat/completions" : "v1/completions", asked, $("key").value, running.signal)) {
      take(choice, story, words, clock);
      update(story);
      follow();
    }
  } catch (error) {
    end = error.name === "AbortError" ? "Stopped" : "Broken off";
    if (error.name !== "AbortError") complain(known(error));
  }
  running = null;
  finish(story, words, end);
  if (chat && story.tokens.length) {
    talk = [...asked.messages, { role: "assistant", content: story.tokens.map((token) => token.text).join("") }];
    $("prompt").value = "";
  }
  dress();
}

/** Who had scrolled to the end stays at it. Read off when they scroll, since asking for it costs a layout. */
let low = false, following = 0;
addEventListener("scroll", () => {
  low = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 24;
}, { passive: true });
function follow() {
  if (!low || following) return;
  following = requestAnimationFrame(() => {
    following = 0;
    scrollTo(0, document.documentElement.scrollHeight);
  });
}

function finish(story, words, end) {
  story.close();
  words.strike(0);
  voice.end();
  lanes.end();
  update(story);
  $("results").removeAttribute("aria-busy");
  const n = story.tokens.length, last = n ? story.tokens[n - 1].at : 0;
  const size = `${n} ${n === 1 ? "token" : "tokens"} in ${(last / 1000).toFixed(2)} s`;
  if (end) $("state").textContent = n ? `${end} after ${size}.` : "Nothing was written.";
  else $("state").textContent = `Finished: ${size}; ${ENDS[story.reason] ?? "the end"}.`;
  const share = (role) => `${role} busy ${(100 * lanes.busy(role)).toFixed(0)} % of the time`;
  $("lanes").setAttribute("aria-label", `When each model was busy: ${share("small")}, ${share("large")}. `
    + "Left and right arrows go from pass to pass, plus and minus zoom.");
}

function update(story) {
  const list = $("figures");
  for (const [i, [name, value, means]] of story.figures().entries()) {
    let item = list.children[i];
    if (!item) {
      item = document.createElement("li");
      item.append(document.createElement("b"), document.createElement("span"));
      item.lastChild.textContent = name;
      item.title = means;
      list.append(item);
    }
    if (item.firstChild.textContent !== value) item.firstChild.textContent = value;
  }
  if (lanes.still.matches) lanes.redraw();
}

// Hands.

const stop = () => running?.abort();
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
for (const id of ["stop", "stop-here"]) {
  $(id).addEventListener("click", () => {
    stop();
    $("prompt").focus({ preventScroll: true }); // a button that is switched off would lose the focus
  });
}
$("over").addEventListener("click", () => {
  talk = [];
  $("turns").replaceChildren();
  dress();
  $("prompt").focus();
});
$("zoom-in").addEventListener("click", () => lanes.nearer(0.5));
$("zoom-out").addEventListener("click", () => lanes.nearer(2));
for (const id of ["mode", "chat", "completion"]) $(id).addEventListener("change", dress);
$("key").addEventListener("change", () => given === null && meet());
slide("alpha_fb");
slide("alpha_rb");
document.addEventListener("visibilitychange", pulse);
setInterval(pulse, PULSE);
update(new Story());
dress();
meet().then(pulse);
