// Draws a text with marks, a slice at a time, so that a long text never freezes the page.

const PIECE_CHARACTERS = 2_000; // of text that is laid out together
const LONGEST_LINE = 4_000; // a longer line is shown in parts
const SLICE_MILLISECONDS = 8;

// Letters that are written from right to left: those after which numbers behave otherwise, and all others.
const ARABIC = /[\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}]/u;
const HEBREW = /[\p{Script=Hebrew}\p{Script=Nko}\p{Script=Adlam}\p{Script=Samaritan}\p{Script=Mandaic}]/u;
const LETTER = /\p{L}/u;

const create = (name, className, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

/** Lets the page answer the user. */
const breathe = () => new Promise((go) => setTimeout(go, 0));

/** Gives [start, end] of each line, without its line break. */
function linesOf(text, spans) {
  const lines = [];
  let start = 0;
  let at = 0; // the first span that may reach over the end of this line
  while (start <= text.length) {
    const found = text.indexOf("\n", start);
    let end = found < 0 ? text.length : found;
    if (end - start > LONGEST_LINE) {
      const blank = text.lastIndexOf(" ", start + LONGEST_LINE);
      end = blank > start ? blank + 1 : start + LONGEST_LINE;
      if (/[\udc00-\udfff]/.test(text[end])) end -= 1;
      while (at < spans.length && spans[at].end <= end) at += 1;
      if (at < spans.length && spans[at].start < end && spans[at].start > start) end = spans[at].start;
      lines.push([start, end]);
      start = end;
    } else {
      lines.push([start, end]);
      start = end + 1;
    }
  }
  return lines;
}

/**
 * Draws `text` into `box`. spans: {start, end, label, title} in UTF-16 units, in order, without overlaps.
 * A newer drawing into the same box ends an older one. Gives whether it was drawn to its end.
 */
async function draw(box, text, spans, styleOf) {
  const number = (box.drawing = (box.drawing || 0) + 1);
  const top = box.scrollTop;
  const lines = linesOf(text, spans);
  let next = 0; // the first span that ends after what is drawn
  let piece = null;
  let began = performance.now();
  const pieces = document.createDocumentFragment();
  let isFirst = true;
  let drawn = 0;
  for (const [start, end] of lines) {
    if (piece === null || drawn >= PIECE_CHARACTERS) {
      piece = create("div", "piece");
      pieces.append(piece);
      drawn = 0;
      if (performance.now() - began > SLICE_MILLISECONDS) {
        if (isFirst) box.replaceChildren(pieces);
        else box.append(pieces);
        if (isFirst) box.scrollTop = top;
        isFirst = false;
        await breathe();
        if (box.drawing !== number) return false;
        began = performance.now();
      }
    }
    next = drawLine(piece, text, start, end, spans, next, styleOf);
    drawn += end - start + 40; // an empty line is laid out, too
  }
  if (isFirst) box.replaceChildren(pieces);
  else box.append(pieces);
  if (isFirst) box.scrollTop = top;
  return true;
}

/**
 * Gives the class of a mark that ends at `end`: the direction of the last letter up to there.
 * Without it a badge at the end of a foreign run stands at that run's other end, beside a neighbour.
 */
function directionAt(text, start, end) {
  for (let at = end; at > start; at -= 1) {
    if (/[\udc00-\udfff]/.test(text[at - 1]) && at - 1 > start) at -= 1;
    const letter = String.fromCodePoint(text.codePointAt(at - 1));
    if (HEBREW.test(letter)) return "to-left";
    if (ARABIC.test(letter) && LETTER.test(letter)) return "to-left-arabic";
    if (LETTER.test(letter)) return "to-right";
  }
  return "";
}

/** Draws one line; gives the first span that goes on after it. */
function drawLine(piece, text, start, end, spans, next, styleOf) {
  const line = create("div", "line");
  line.dir = "auto";
  const here = text.slice(start, end);
  const isMixed = HEBREW.test(here) || ARABIC.test(here);
  let position = start;
  while (next < spans.length && (spans[next].start < end || (spans[next].start === end && spans[next].end === end))) {
    const span = spans[next];
    const from = Math.max(span.start, position);
    const to = Math.min(span.end, end);
    if (from > position) line.append(text.slice(position, from));
    const mark = create("mark", styleOf(span.label), text.slice(from, to));
    mark.title = span.title;
    const saysIt = text.slice(span.start, span.end).includes(span.label); // as redacted texts do
    if (span.end <= end && !saysIt) {
      mark.append(create("span", "badge", span.label));
      const direction = isMixed && directionAt(text, start, to);
      if (direction) mark.classList.add(direction);
    }
    line.append(mark);
    position = Math.max(position, to);
    if (span.end > end) {
      mark.classList.add("more"); // it goes on in the next line
      break;
    }
    next += 1;
  }
  if (position < end) line.append(text.slice(position, end));
  if (end < text.length && text[end] !== "\n") line.classList.add("cut"); // the line itself goes on
  piece.append(line);
  return next;
}

/** Fills a table, `size` rows at a time, with buttons to turn pages. rowOf: makes the row of an item. */
function page(body, pager, items, rowOf, size = 100) {
  const pages = Math.max(1, Math.ceil(items.length / size));
  const show = (number) => {
    body.replaceChildren(...items.slice(number * size, (number + 1) * size).map(rowOf));
    pager.replaceChildren();
    if (pages === 1) return;
    const turn = (text, to) => {
      const button = create("button", "", text);
      button.type = "button";
      button.disabled = to < 0 || to >= pages;
      button.addEventListener("click", () => {
        show(to);
        body.closest(".view").scrollTop = 0;
        body.closest(".view").focus();
      });
      return button;
    };
    pager.append(turn("Previous", number - 1), create("span", "", `Page ${number + 1} of ${pages}`), turn("Next", number + 1));
  };
  show(0);
}
