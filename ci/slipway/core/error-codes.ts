/**
 * Stable codes of errors. Each is an anchor in docs/reference/troubleshooting.md, which describes cause and remedy.
 */
export const errorCodes = [
  // Any command
  "packages-not-installed",
  "package-registry-refused",
  "pipeline-not-found",
  "package-json-invalid",
  "setting-invalid",
  "bun-outdated",
  "bun-pin-mismatch",
  "bun-shadowed",
  "program-not-found",
  "download-failed",
  // slipway init
  "templates-differ",
  "components-not-added",
  "file-not-accessible",
  // slipway install-k3s
  "checksum-mismatch",
  "k3s-install-failed",
  // check and test
  "script-failed",
  // image and build
  "source-does-not-compile",
  "build-failed",
  "files-changed-during-build",
  "plugin-unusable",
  "native-package-invalid",
  "native-addon-architecture",
  "shared-library-not-found",
  "disk-full",
  // Builds for another architecture, and the Dagger engine
  "cross-build-unavailable",
  "dagger-unavailable",
  "dagger-failed",
  // Smoke test
  "smoke-test-failed",
  "smoke-test-killed",
  "smoke-test-architecture",
  // verify-archive
  "archive-differs",
  "archive-damaged",
  "archive-invalid",
  // Connection to k3s on this machine
  "k3s-not-found",
  "containerd-no-permission",
  "kubeconfig-not-found",
  "node-not-registered",
  "several-nodes",
  "node-elsewhere",
  // Connection over SSH
  "ssh-host-key-unknown",
  "ssh-host-key-changed",
  "ssh-login-refused",
  "ssh-unreachable",
  "ssh-connection-lost",
  "ssh-forwarding-refused",
  "ssh-sessions-limited",
  "ssh-k3s-not-found",
  "ssh-sudo-failed",
  "ssh-host-not-a-node",
  "node-without-host",
  // Kubernetes API
  "kubectl-start-timeout",
  "kubeconfig-unusable",
  "api-unauthorized",
  "api-forbidden",
  "manifests-rejected",
  "api-unreachable",
  "api-error",
  // Manifests
  "manifests-invalid",
  "kind-unknown",
  "manifests-too-large",
  "project-differs",
  "probe-too-short",
  "component-missing",
  "namespace-not-found",
  "namespace-terminating",
  "namespace-shared",
  "manifests-unsuitable",
  "rights-missing",
  // Secrets
  "secret-invalid",
  "secret-missing",
  "secret-in-use",
  "secret-command-failed",
  // Delivery to containerd
  "node-architecture",
  "node-disk-full",
  "containerd-failed",
  "image-removed",
  // Registry
  "registry-unreachable",
  "registry-tls-untrusted",
  "registry-unauthorized",
  "registry-credentials-unreadable",
  "registry-repository-not-found",
  "registry-full",
  "registry-busy",
  "registry-rejected",
  "registry-invalid-response",
  "registry-referrers-tag-in-use",
  "sbom-not-found",
  // Deploy lock
  "lock-held",
  "lock-lost",
  // Rollout
  "pre-deploy-job-failed",
  "rollout-crash-loop",
  "rollout-container-exited",
  "rollout-image-missing",
  "rollout-image-pull",
  "rollout-container-config",
  "rollout-not-ready",
  "rollout-unschedulable",
  "rollout-failed-create",
  "rollout-timeout",
  "rollout-deleted",
  "rollout-not-served",
  "rollback-failed",
  // Operation
  "pods-not-found",
  // verify and rollback
  "version-not-served",
  "version-not-stored",
  "version-unusable",
] as const;

export type ErrorCode = (typeof errorCodes)[number] | "usage" | "interrupted";
