// Checks custom resources (a JSON list on stdin) by the models of @kubernetes-models; prints a JSON list of faults.
const [modules, groups] = [process.argv[2], JSON.parse(process.argv[3])];
const faults = [];
for (const manifest of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
  const [group, version] = manifest.apiVersion.split("/");
  const models = require(`${modules}/@kubernetes-models/${groups[group]}/${group}/${version}/index.js`);
  const Model = models[manifest.kind];
  if (!Model) {
    faults.push(`${manifest.apiVersion} has no ${manifest.kind}`);
    continue;
  }
  try {
    new Model(manifest).validate();
  } catch (error) {
    faults.push(`${manifest.kind}: ${error.message}`);
  }
}
console.log(JSON.stringify(faults));
