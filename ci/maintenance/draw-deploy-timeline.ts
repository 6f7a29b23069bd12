/**
 * Draws the steps of a deploy on a line of seconds, as an SVG for the README.
 *
 *     bun ci/pipeline.ts --report report.json && bun ci/maintenance/draw-deploy-timeline.ts report.json > .github/deploy.svg
 */
interface Step {
  name: string;
  /** Seconds from the start of the run to the start of the step, and its duration. */
  wait: number;
  work: number;
}
interface RunReport {
  conclusion: string;
  seconds: number;
  criticalPath: string[];
  steps: Step[];
}

const WIDTH = 860;
const LEFT = 90;
const ROW = 26;
const TOP = 34;

/** @returns the SVG. It follows the reader's light or dark theme. */
export function drawDeploy({ seconds, criticalPath, steps }: RunReport): string {
  const shown = steps.filter(({ work }) => work >= 0.05).toSorted((a, b) => a.wait - b.wait);
  const scale = (WIDTH - LEFT - 70) / seconds;
  const height = TOP + shown.length * ROW + 30;
  const rows = shown.map(({ name, wait, work }, index) => {
    const [x, y, width] = [LEFT + wait * scale, TOP + index * ROW, Math.max(3, work * scale)];
    const kind = criticalPath.includes(name) ? "critical" : "step";
    return `  <text x="${LEFT - 10}" y="${y + 15}" text-anchor="end">${name}</text>
  <rect class="${kind}" x="${x.toFixed(1)}" y="${y + 2}" width="${width.toFixed(1)}" height="${ROW - 8}" rx="3"/>
  <text class="time" x="${(x + width + 6).toFixed(1)}" y="${y + 15}">${work.toFixed(1)} s</text>`;
  });
  const every = Math.max(1, Math.ceil(seconds / 10));
  const ticks = Array.from({ length: Math.floor(seconds / every) + 1 }, (_, index) => {
    const x = (LEFT + index * every * scale).toFixed(1);
    return `  <line x1="${x}" y1="${TOP - 6}" x2="${x}" y2="${height - 24}"/>
  <text class="time" x="${x}" y="${TOP - 12}" text-anchor="middle">${index * every} s</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-labelledby="title">
  <title id="title">The steps of a deploy: ${shown.map(({ name, work }) => `${name} ${work.toFixed(1)} s`).join(", ")}</title>
  <style>
    text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
    .time { font-size: 11px; fill: #59636e; }
    line { stroke: #d1d9e0; }
    .step { fill: #8fb8e8; }
    .critical { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .time { fill: #9198a1; }
      line { stroke: #3d444d; }
      .step { fill: #2f5d94; }
      .critical { fill: #58a6ff; }
    }
  </style>
${[...ticks, ...rows].join("\n")}
  <text class="time" x="${LEFT}" y="${height - 6}">dark: the critical path. An edit of one line, ${seconds.toFixed(1)} s in all.</text>
</svg>
`;
}

if (import.meta.main) console.log(drawDeploy(await Bun.file(process.argv[2]!).json()));
