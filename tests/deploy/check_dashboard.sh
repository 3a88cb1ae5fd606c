#!/usr/bin/env bash
# Checks deploy/monitoring/grafana-dashboard.json by the types of Grafana's own schema (npm, @grafana/schema): the
# dashboard, and the options and the custom field settings of every panel. Unknown and missing keys are errors.
#
#   check_dashboard.sh [FOLDER]     FOLDER keeps what npm installs (default: a temporary one)
set -euo pipefail
dashboard=$(readlink -f "$(dirname "$0")/../../deploy/monitoring/grafana-dashboard.json")
cd "${1:-$(mktemp -d)}"
[ -d node_modules/@grafana/schema ] ||
  npm install --silent --no-audit --no-fund --prefix . @grafana/schema@13.2.3 typescript@5.9.3
DASHBOARD=$dashboard node <<'JS'
const fs = require("fs");
const dashboard = JSON.parse(fs.readFileSync(process.env.DASHBOARD));
// Grafana keeps the text of a query variable under this name as well; its schema does not have it.
for (const variable of dashboard.templating.list) delete variable.definition;
const raw = "./node_modules/@grafana/schema/dist/types/raw";
const show = (value) => JSON.stringify(value, null, 1);
const lines = [
  `import { Dashboard } from "${raw}/dashboard/x/types.gen";`,
  // JSON has strings and numbers where the types have enums.
  "type Plain<T> = T extends string ? `${T}` : T extends number",
  "  ? (`${T}` extends `${infer N extends number}` ? N : T)",
  "  : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
  `const dashboard: Plain<Dashboard> = ${show(dashboard)};`,
];
dashboard.panels.filter((panel) => panel.type !== "row").forEach((panel, index) => {
  const types = `import("${raw}/composable/${panel.type}/panelcfg/x/types.gen")`;
  lines.push(`// ${panel.title}`, `const options${index}: Plain<${types}.Options> = ${show(panel.options)};`);
  const custom = panel.fieldConfig.defaults.custom;
  if (custom) lines.push(`const custom${index}: Plain<${types}.FieldConfig> = ${show(custom)};`);
});
fs.writeFileSync("dashboard.ts", lines.join("\n") + "\n");
JS
node_modules/.bin/tsc --noEmit --strict --skipLibCheck --target es2022 --moduleResolution node dashboard.ts
echo "the dashboard fits @grafana/schema $(node -p 'require("./node_modules/@grafana/schema/package.json").version')"
