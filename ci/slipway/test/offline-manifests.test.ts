/** The manifests of a machine without kubectl. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderOffline } from "../kubernetes/offline-manifests.ts";
import { service } from "./helloapp-fixture.ts";

const project = mkdtempSync(join(tmpdir(), "local-"));
const path = process.env.PATH;
beforeAll(() => void (process.env.PATH = join(project, "no-programs")));
afterAll(() => {
  process.env.PATH = path;
  rmSync(project, { recursive: true });
});

function manifests(files: Record<string, string>) {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(project, name, ".."), { recursive: true });
    writeFileSync(join(project, name), content);
  }
  const overlays = { ...service.overlays, k3s: "k8s/overlay" };
  return renderOffline({ ...service, project, overlays }, AbortSignal.timeout(60_000));
}

test("they are read as Kubernetes reads them, a short commit that looks like a number as well", async () => {
  const { objects, note } = await manifests({
    "k8s/overlay/kustomization.yaml": "resources: [../base]\n",
    "k8s/base/kustomization.yaml": "resources: [all.yaml, not-there.yaml]\n",
    "k8s/base/all.yaml": `---
kind: ConfigMap
data: { COMMIT: 7e81234 }
---
kind: List
items: [{ kind: Secret, stringData: { A: b } }]
`,
  });
  expect(note).toContain("no kubectl");
  expect(objects).toMatchObject([
    { kind: "ConfigMap", data: { COMMIT: "7e81234" } },
    { kind: "Secret", stringData: { A: "b" } },
  ]);
});

test("anchors are merged", async () => {
  const { objects } = await manifests({
    "k8s/base/all.yaml": "kind: ConfigMap\nmetadata: &labels { a: b }\ndata: { <<: *labels, c: d }\n",
  });
  expect(objects).toMatchObject([{ data: { a: "b", c: "d" } }]);
});

test("an empty kustomization has nothing; a file that is no YAML is named", async () => {
  expect((await manifests({ "k8s/base/kustomization.yaml": "# nothing yet\n" })).objects).toEqual([]);
  const broken = { "k8s/base/kustomization.yaml": "resources: [all.yaml]\n", "k8s/base/all.yaml": "a: [1\n" };
  await expect(manifests(broken)).rejects.toThrow(/k8s\/base\/all\.yaml is no valid YAML: /);
});
