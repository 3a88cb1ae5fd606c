// Shows the server's own description of its API; the key stays in memory.

const $ = (id) => document.getElementById(id);
const BASE = location.origin + location.pathname.replace(/docs\/?$/, "");
let apiKey = "";

async function show() {
  let response;
  try {
    response = await fetch(`${BASE}openapi.json`, { cache: "no-store", headers: apiKey ? { "x-api-key": apiKey } : {} });
  } catch {
    $("message").textContent = "The server cannot be reached. Is it running, and is the network up?";
    return;
  }
  if (response.status === 401) {
    $("key-text").textContent = apiKey ? "The server does not know this key." : "This server wants an API key.";
    $("key-dialog").showModal();
    return;
  }
  if (!response.ok) {
    $("message").textContent = `The server does not give its description (status ${response.status}).`;
    return;
  }
  const spec = await response.json();
  spec.servers = [{ url: BASE.replace(/\/$/, "") || "/" }]; // behind a prefix as well
  const ui = SwaggerUIBundle({
    spec,
    domNode: $("api"),
    deepLinking: false,
    persistAuthorization: false,
    validatorUrl: null,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    requestInterceptor: (request) => {
      if (apiKey && !request.headers.authorization) request.headers["x-api-key"] = apiKey;
      return request;
    },
  });
  void ui;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key").value.trim();
  $("key").value = "";
  $("key-dialog").close();
  show();
});
show();
