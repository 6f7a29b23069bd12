/** Rendering manifests without kubectl. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderOffline } from "../kubernetes/render-offline.ts";
import { service } from "./helloapp-service.ts";

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

test("YAML is parsed as Kubernetes does: a short commit that looks like a number is text", async () => {
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
  expect(note).toContain("kubectl not found");
  expect(objects).toMatchObject([
    { kind: "ConfigMap", data: { COMMIT: "7e81234" } },
    { kind: "Secret", stringData: { A: "b" } },
  ]);
});

test("YAML merge keys are resolved", async () => {
  const { objects } = await manifests({
    "k8s/base/all.yaml": "kind: ConfigMap\nmetadata: &labels { a: b }\ndata: { <<: *labels, c: d }\n",
  });
  expect(objects).toMatchObject([{ data: { a: "b", c: "d" } }]);
});

test("an empty kustomization has no objects, and the error for invalid YAML names the file", async () => {
  expect((await manifests({ "k8s/base/kustomization.yaml": "# nothing yet\n" })).objects).toEqual([]);
  const broken = { "k8s/base/kustomization.yaml": "resources: [all.yaml]\n", "k8s/base/all.yaml": "a: [1\n" };
  await expect(manifests(broken)).rejects.toThrow(/k8s\/base\/all\.yaml is not valid YAML: /);
});
