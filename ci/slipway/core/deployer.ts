/** Identifies the person or the workflow that runs this process. */
import { hostname, userInfo } from "node:os";

export interface Deployer {
  /** `user@host`, or the account that started the workflow. */
  name: string;
  /** Address of the workflow run. */
  run: string | undefined;
}

/**
 * Reads the variables of GitHub Actions and GitLab CI.
 * https://docs.github.com/en/actions/reference/workflows-and-actions/variables
 * https://docs.gitlab.com/ci/variables/predefined_variables/
 */
export function identifyDeployer(env: Record<string, string | undefined> = process.env): Deployer {
  const { GITHUB_ACTIONS, GITHUB_ACTOR, GITHUB_SERVER_URL, GITHUB_REPOSITORY, GITHUB_RUN_ID } = env;
  if (GITHUB_ACTIONS === "true" && GITHUB_ACTOR) {
    const isKnown = GITHUB_SERVER_URL && GITHUB_REPOSITORY && GITHUB_RUN_ID;
    const run = isKnown ? `${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}/actions/runs/${GITHUB_RUN_ID}` : undefined;
    return { name: GITHUB_ACTOR, run };
  }
  if (env.GITLAB_CI === "true" && env.GITLAB_USER_LOGIN) return { name: env.GITLAB_USER_LOGIN, run: env.CI_JOB_URL };
  return { name: userAtHost(env), run: undefined };
}

/** Returns `user@host`. */
export function userAtHost({ USER, LOGNAME }: Record<string, string | undefined> = process.env): string {
  return `${USER ?? LOGNAME ?? accountName()}@${hostname()}`;
}

/** A container's user may have no account. */
function accountName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.getuid?.()}`;
  }
}
