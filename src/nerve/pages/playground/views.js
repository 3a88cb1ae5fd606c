// What the views show of an answer, the legend, and the time spent.

/** Shows an answer in the view that it is for. */
function show(kind, answer) {
  showTiming(answer);
  if (kind === "tokens") {
    showTokens(answer);
  } else {
    const found = kind === "redacted" ? answer.body[0].items : entitiesOf(answer);
    showLegend(found);
    if (kind === "redacted") showRedacted(answer.body[0]);
    else showEntities(answer.text, found);
  }
  showCall();
}

/** The entities of an answer: {start, end, label, score}. */
function entitiesOf(answer) {
  answer.entities ??= answer.body[0].items ?? answer.body[0].map((row) => {
    const [[label, score]] = Object.entries(row.results);
    return { start: row.start, end: row.end, label, score };
  });
  return answer.entities;
}

const isShown = (entity) => entity.score >= threshold() && !off.has(entity.label);
const percent = (score) => `${(score * 100).toFixed(1)} %`;

function showEntities(text, found) {
  const shown = found.filter(isShown);
  for (const entity of shown) entity.title = `${entity.label}, ${percent(entity.score)}`;
  const kinds = new Set(shown.map((entity) => entity.label)).size;
  $("status").textContent = text.trim() === "" ? "" : `${count(shown.length, "entity", "entities")}, ${count(kinds, "label", "labels")}.`;
  if (viewNow() === "list") {
    page($("list-rows"), $("list-pager"), shown, (entity) => {
      const label = create("td");
      label.append(create("mark", styleOf(entity.label), entity.label));
      const row = create("tr");
      row.append(cell(text.slice(entity.start, entity.end)), label, number(percent(entity.score)), number(entity.start), number(entity.end));
      return row;
    });
  } else {
    draw($("view-text"), text, shown, styleOf);
  }
}

const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;
const number = (value) => create("td", "number", String(value));
const cell = (text) => {
  const found = create("td", "", text);
  found.dir = "auto";
  return found;
};

function showLegend(found) {
  const counts = new Map();
  for (const { label, score } of found) {
    if (score >= threshold()) counts.set(label, (counts.get(label) || 0) + 1);
    else if (!counts.has(label)) counts.set(label, 0);
  }
  for (const label of off) if (!counts.has(label)) counts.set(label, 0);
  for (const label of counts.keys()) styleOf(label); // gives it its colour
  const names = [...counts.keys()].sort((one, other) => labels.indexOf(one) - labels.indexOf(other));
  const box = $("legend");
  const old = new Map([...box.children].map((item) => [item.dataset.label, item])); // the focus stays where it is
  const items = names.map((label) => {
    const item = old.get(label) || legendItem(label);
    item.querySelector("input").checked = !off.has(label);
    item.querySelector(".count").textContent = counts.get(label);
    return item;
  });
  if (items.length !== box.children.length || items.some((item, index) => item !== box.children[index])) {
    const focused = document.activeElement;
    box.replaceChildren(...items);
    if (box.contains(focused)) focused.focus();
  }
  $("legend-empty").hidden = names.length > 0;
  $("legend-buttons").hidden = names.length === 0;
  showLabelOperators(names);
}

function legendItem(label) {
  const item = create("label", styleOf(label));
  item.dataset.label = label;
  const box = create("input");
  box.type = "checkbox";
  box.addEventListener("change", () => {
    if (box.checked) off.delete(label);
    else off.add(label);
    schedule(0);
  });
  item.append(box, create("span", "", label), " ", create("span", "count"));
  return item;
}

function showLabelOperators(names) {
  const box = $("label-operators");
  if (box.dataset.names === names.join()) return;
  box.dataset.names = names.join();
  box.replaceChildren(
    ...names.map((label) => {
      const item = create("label", "", `${label} `);
      const select = create("select");
      select.append(new Option("as above", ""), ...OPERATORS.map((name) => new Option(name, name)));
      select.value = labelOperators.get(label) || "";
      select.addEventListener("change", () => {
        if (select.value) labelOperators.set(label, select.value);
        else labelOperators.delete(label);
        schedule(0);
      });
      item.append(select);
      return item;
    }),
  );
}

function showRedacted({ text, items }) {
  const shown = items.filter((item) => !off.has(item.label));
  const spans = shown.map((item) => ({
    start: item.redacted_start,
    end: item.redacted_end,
    label: item.label,
    title: `${item.label}, ${percent(item.score)}, ${item.operator}`,
  }));
  $("status").textContent = `${count(shown.length, "entity", "entities")} redacted.`;
  draw($("redacted"), text, spans, styleOf);
}

function showTokens(answer) {
  const rows = answer.body[0];
  const whole = textNow().length;
  $("tokens-note").hidden = answer.text.length === whole;
  $("tokens-note").textContent = `The first ${answer.text.length.toLocaleString("en")} of ${whole.toLocaleString("en")} characters.`;
  $("status").textContent = `${count(rows.length, "token", "tokens")}.`;
  page($("token-rows"), $("token-pager"), rows, tokenRow);
}

function tokenRow(token) {
  let best = null;
  for (const entry of Object.entries(token.results)) if (best === null || entry[1] > best[1]) best = entry;
  const details = create("details");
  details.append(create("summary", "", `${Object.keys(token.results).length} labels`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const grid = create("div", "scores");
    for (const [label, score] of Object.entries(token.results).sort((one, other) => other[1] - one[1])) {
      const meter = create("meter");
      meter.value = score;
      meter.setAttribute("aria-label", label);
      grid.append(create("span", "", label), create("span", "number", score.toPrecision(4)), meter);
    }
    details.append(grid);
  });
  const all = create("td");
  all.append(details);
  const row = create("tr");
  row.append(cell(token.token), number(token.token_id), number(`${token.start}–${token.end}`), create("td", "", best[0]), number(percent(best[1])), all);
  return row;
}

function showTiming({ timing, tokens, milliseconds }) {
  $("timing").hidden = !timing || timing.total === undefined;
  if ($("timing").hidden) return;
  const { tokenize = 0, queue = 0, inference = 0, total } = timing;
  const parts = { tokenize, queue, inference, rest: Math.max(0, total - tokenize - queue - inference) };
  $("bar").replaceChildren(
    ...Object.values(parts).map((part, index) => {
      const piece = create("div", `b${index}`);
      piece.style.flexGrow = part;
      return piece;
    }),
  );
  const written = Object.entries(parts).map(([name, part]) => `${name} ${part.toFixed(1)}`).join(" + ");
  $("timing-text").textContent =
    `${count(tokens, "token", "tokens")} in ${total.toFixed(1)} ms on the server: ${written}. ${milliseconds.toFixed(0)} ms with the network.`;
}
