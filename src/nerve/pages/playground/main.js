// The page: what it knows, what it asks, what it shows.

const $ = (id) => document.getElementById(id);

const TYPING_MILLISECONDS = 250; // of rest before a request
const LONG_TEXT_CHARACTERS = 20_000; // from here on a request waits longer
const LONG_TYPING_MILLISECONDS = 700;
const TOKEN_VIEW_CHARACTERS = 20_000; // every score of every token is some 1 kB
const SNIPPET_CHARACTERS = 2_000; // of a text that the code on the page shows
const STARTING_SECONDS = 2;
const STRATEGIES = ["first", "simple", "average", "max", "viterbi"];
const OPERATORS = ["replace", "number", "mask", "redact", "hash", "keep"];
const PATTERNS = ["email", "url", "ip_address", "credit_card", "iban", "us_ssn", "phone_number"];

let info = null; // what /info says
let running = null; // the AbortController of the request under way
let timer = 0; // of the next request
let again = 0; // of the next try after a refusal
const labels = []; // all that are known, in the order of their colours
const off = new Set();
const labelOperators = new Map();
const answers = {}; // by kind: {text, key, ...}; the last one

const textNow = () => wellFormed($("text").value);
const viewNow = () => document.querySelector("input[name=view]:checked").value;
const threshold = () => Number($("threshold").value);

function styleOf(label) {
  let index = labels.indexOf(label);
  if (index < 0) index = labels.push(label) - 1;
  return `c${index % 8} s${Math.floor(index / 8) % 4}`;
}

/** What is asked for the view: {kind, route, body without the text, text}. */
function question() {
  const view = viewNow();
  const text = textNow();
  if (view === "tokens") {
    let end = Math.min(text.length, TOKEN_VIEW_CHARACTERS);
    if (/[\udc00-\udfff]/.test(text[end] || "")) end -= 1;
    const body = { aggregation_strategy: "none", raw_scores: true, offset_unit: "utf16" };
    return { kind: "tokens", route: "predict_tokens", body, text: text.slice(0, end) };
  }
  const body = { aggregation_strategy: $("strategy").value, offset_unit: "utf16" };
  if (view !== "redacted" && !withPatterns()) return { kind: "entities", route: "predict_tokens", body, text };
  if (view !== "redacted") {
    // /predict_tokens gives the model's own answer; what rules find, too, is in what /redact lists.
    body.operators = { DEFAULT: { type: "keep" } };
    return { kind: "entities", route: "redact", body, text };
  }
  body.operators = operatorsNow();
  if (threshold() > 0) body.min_score = threshold();
  if ($("patterns").value !== "server") body.patterns = $("patterns").value === "all" ? PATTERNS : [];
  return { kind: "redacted", route: "redact", body, text };
}

const withPatterns = () => Boolean(info?.patterns?.length) && $("with-patterns").checked;

function operatorsNow() {
  const type = $("operator").value;
  const operator = { type };
  if (type === "replace" && $("new-value").value) operator.new_value = wellFormed($("new-value").value);
  if (type === "mask" && $("mask-character").value) operator.masking_char = [...$("mask-character").value][0];
  const chosen = { DEFAULT: operator };
  for (const [label, name] of labelOperators) chosen[label] = { type: name };
  for (const label of off) chosen[label] = { type: "keep" };
  return chosen;
}

function schedule(milliseconds) {
  clearTimeout(timer);
  clearTimeout(again);
  running?.abort();
  const wait = textNow().length > LONG_TEXT_CHARACTERS ? LONG_TYPING_MILLISECONDS : TYPING_MILLISECONDS;
  timer = setTimeout(ask, milliseconds ?? wait);
}

/** Asks what the view needs, unless it is known already, and shows it. */
async function ask() {
  clearTimeout(timer);
  clearTimeout(again);
  running?.abort();
  const controller = (running = new AbortController());
  try {
    if (info === null) learn((await call("info", undefined, controller.signal)).body);
    const { kind, route, body, text } = question();
    const key = JSON.stringify(body);
    const last = answers[kind];
    if (!last || last.text !== text || last.key !== key) {
      if (text.trim() === "") {
        answers[kind] = { text, key, body: [route === "redact" ? { text, items: [] } : []], timing: null };
      } else {
        busy(true);
        const answer = await call(route, { inputs: text, ...body }, controller.signal);
        answers[kind] = { text, key, ...answer };
      }
    }
    $("problem").hidden = true;
    show(kind, answers[kind]);
  } catch (error) {
    if (error.status === 404 && viewNow() !== "redacted" && withPatterns()) {
      $("with-patterns").checked = false; // the server has no /redact
      $("patterns-box").hidden = true;
      schedule(0);
    } else if (!controller.signal.aborted) fail(error);
  } finally {
    if (running === controller) busy(false);
  }
}

function busy(is) {
  for (const view of document.querySelectorAll(".view")) view.setAttribute("aria-busy", String(is));
}

/** Takes what the server says of its model. */
function learn(found) {
  info = found;
  labels.push(...(found.entity_labels || []).filter((label) => !labels.includes(label)));
  $("model").textContent = `${found.model_name || found.model_id} · ${found.dtype} · nerve ${found.version}`;
  $("patterns-box").hidden = !found.patterns?.length;
  $("patterns-names").textContent = (found.patterns || []).join(", ");
  if (!strategyWasChosen && STRATEGIES.includes(found.entity_strategy)) $("strategy").value = found.entity_strategy;
}

/** Says plainly what went wrong. */
function fail(error) {
  if (!(error instanceof CallFailed)) {
    problem("This page has a defect; its console says more.", true);
    throw error;
  }
  $("status").textContent = "";
  $("timing").hidden = true;
  if (!answers.entities || answers.entities.text !== textNow()) {
    draw($("view-text"), textNow(), [], styleOf);
    showLegend([]); // what it counts is of another text
  }
  if (error.status === 401) {
    problem(apiKey ? "The API key is wrong." : "This server wants an API key.", true, "Enter the key");
    askForKey();
    return;
  }
  let seconds = error.retryAfter;
  if (error.status === 503) seconds ??= STARTING_SECONDS;
  const next = seconds === null ? "" : ` The page tries again in ${seconds} s.`;
  problem(error.message.replace(/\.?$/, ".") + next, error.status !== 413 && error.status !== 422);
  if (seconds !== null) again = setTimeout(ask, seconds * 1000);
}

function problem(text, canRetry, name = "Try again") {
  $("problem-text").textContent = text[0].toUpperCase() + text.slice(1);
  $("retry").hidden = !canRetry;
  $("retry").textContent = name;
  $("problem").hidden = false;
}

function askForKey() {
  $("key-text").textContent = apiKey ? "The server does not know this key." : "This server wants an API key.";
  apiKey = "";
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

/** The call of the view as code. The text is shortened unless it is to be copied. */
function codeNow(isWhole) {
  const { kind, route, body, text } = question();
  const fields = { inputs: isWhole || text.length <= SNIPPET_CHARACTERS ? text : `${wellFormed(text.slice(0, SNIPPET_CHARACTERS))} …`, ...body };
  if (kind === "entities") {
    if (threshold() > 0) fields.min_score = threshold();
    if (off.size > 0) fields.labels = labels.filter((label) => !off.has(label));
  }
  return snippetOf(document.querySelector("input[name=language]:checked").value, route, fields, apiKey !== "");
}

function showCall() {
  $("call").textContent = codeNow(false);
  $("call-note").hidden = textNow().length <= SNIPPET_CHARACTERS;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS a page may not use the clipboard in that way.
    const box = create("textarea", "hidden", text);
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    button.focus();
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = name), 1500);
}

// --- Settings in the address, without the text: a link to them can be given on. ---

let strategyWasChosen = false;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (STRATEGIES.includes(given.get("strategy"))) {
    $("strategy").value = given.get("strategy");
    strategyWasChosen = true;
  }
  const score = Number(given.get("score"));
  if (score > 0 && score <= 1) $("threshold").value = score;
  const view = document.querySelector(`input[name=view][value="${CSS.escape(given.get("view") || "")}"]`);
  if (view) view.checked = true;
}

function writeAddress() {
  const settings = new URLSearchParams();
  if (strategyWasChosen) settings.set("strategy", $("strategy").value);
  if (threshold() > 0) settings.set("score", $("threshold").value);
  if (viewNow() !== "text") settings.set("view", viewNow());
  history.replaceState(null, "", `${location.pathname}${settings.size ? `#${settings}` : ""}`);
}

// --- What the user does. ---

function showSettings() {
  $("threshold-value").textContent = threshold().toFixed(2);
  const view = viewNow();
  for (const name of ["text", "list", "tokens", "redacted"]) $(`view-${name}`).hidden = name !== view;
  $("new-value-box").hidden = $("operator").value !== "replace";
  $("mask-box").hidden = $("operator").value !== "mask";
}

function textChanged() {
  const { length } = $("text").value;
  $("length").textContent = `${length.toLocaleString("en")} characters`;
  schedule();
}

function settingChanged(milliseconds = 0) {
  showSettings();
  writeAddress();
  schedule(milliseconds);
}

function start() {
  $("docs-link").href = `${BASE}docs`;
  $("strategy").append(...STRATEGIES.map((name) => new Option(name, name)));
  $("operator").append(...OPERATORS.map((name) => new Option(name, name)));
  $("example").append(...EXAMPLES.map(([name], index) => new Option(name, index)));
  readAddress();

  $("text").addEventListener("input", textChanged);
  const takeExample = () => {
    const [, lang, text] = EXAMPLES[$("example").value];
    $("text").value = text;
    $("text").lang = lang;
    textChanged();
  };
  $("example").addEventListener("change", takeExample);
  $("clear").addEventListener("click", () => {
    $("text").value = "";
    $("text").focus();
    textChanged();
  });
  $("strategy").addEventListener("change", () => {
    strategyWasChosen = true;
    settingChanged();
  });
  $("threshold").addEventListener("input", () => settingChanged(50));
  for (const radio of document.querySelectorAll("input[name=view]")) radio.addEventListener("change", () => settingChanged());
  for (const id of ["operator", "patterns", "with-patterns"]) $(id).addEventListener("change", () => settingChanged());
  for (const id of ["new-value", "mask-character"]) $(id).addEventListener("input", () => settingChanged(TYPING_MILLISECONDS));
  $("all-on").addEventListener("click", () => {
    off.clear();
    schedule(0);
  });
  $("all-off").addEventListener("click", () => {
    for (const item of $("legend").children) off.add(item.dataset.label);
    schedule(0);
  });
  $("retry").addEventListener("click", ask);
  for (const radio of document.querySelectorAll("input[name=language]")) radio.addEventListener("change", showCall);
  $("copy-call").addEventListener("click", (event) => copy(codeNow(true), event.target));
  $("copy-redacted").addEventListener("click", (event) => copy(answers.redacted?.body[0].text || "", event.target));
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      $("key-text").textContent = "A key has letters, digits and signs of ASCII only, and no blanks.";
      return;
    }
    apiKey = key;
    $("key").value = "";
    $("key-dialog").close();
    ask();
  });
  showSettings();
  if ($("text").value === "") takeExample(); // a browser may keep a text when the page is loaded again
  else textChanged();
}

start();
