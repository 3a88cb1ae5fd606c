// The call as code: what this page sends, for other places to send.

const PYTHON_WORDS = { true: "True", false: "False", null: "None" };

/** A value as Python writes it. Strings of JSON are strings of Python. */
function pythonOf(value) {
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonOf(item)}`).join(", ")}}`;
  }
  const text = JSON.stringify(value);
  return PYTHON_WORDS[text] || text;
}

/** Fields of a call, one on each line. */
const fieldsOf = (body, write, indent) =>
  Object.entries(body).map(([name, value]) => `${indent}${JSON.stringify(name)}: ${write(value)},`).join("\n");

/** Gives the code of a call. body: as this page sends it; offsets in UTF-16 units are for JavaScript alone. */
function snippetOf(language, route, body, needsKey) {
  const url = BASE + route;
  const { offset_unit: unit, ...plain } = body;
  if (language === "curl") {
    const key = needsKey ? `  -H "authorization: Bearer $NERVE_API_KEY" \\\n` : "";
    // A text in quotes would need escapes, and may be longer than an argument can be.
    return `curl -sS '${url.replace(/'/g, "%27")}' \\\n${key}  -H 'content-type: application/json' --data-binary @- <<'END'\n${JSON.stringify(plain)}\nEND\n`;
  }
  if (language === "python") {
    const key = needsKey ? `, "authorization": "Bearer " + os.environ["NERVE_API_KEY"]` : "";
    return `import json\n${needsKey ? "import os\n" : ""}import urllib.request

body = {
${fieldsOf(plain, pythonOf, "    ")}
}
request = urllib.request.Request(
    ${JSON.stringify(url)},
    data=json.dumps(body).encode(),
    headers={"content-type": "application/json"${key}},
)
with urllib.request.urlopen(request) as answer:
    print(json.load(answer))
`;
  }
  const key = needsKey ? `, authorization: "Bearer " + process.env.NERVE_API_KEY` : "";
  return `const answer = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: { "content-type": "application/json"${key} },
  body: JSON.stringify({
${fieldsOf(body, (value) => JSON.stringify(value), "    ")}
  }),
});
if (!answer.ok) throw new Error((await answer.json()).error);
console.log(await answer.json());
`;
}
