/**
 * Draws the steps of a deploy over its time, as an SVG for the README. It shows proportions and no seconds: figures are in benchmarks.md.
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
const TOP = 8;

/** @returns the SVG. It follows the reader's light or dark theme. */
export function drawDeploy({ seconds, criticalPath, steps }: RunReport): string {
  const shown = steps.filter(({ work }) => work >= 0.05).toSorted((a, b) => a.wait - b.wait);
  const scale = (WIDTH - LEFT - 20) / seconds;
  const height = TOP + shown.length * ROW + 30;
  const rows = shown.map(({ name, wait, work }, index) => {
    const [x, y, width] = [LEFT + wait * scale, TOP + index * ROW, Math.max(3, work * scale)];
    const kind = criticalPath.includes(name) ? "critical" : "step";
    return `  <text x="${LEFT - 10}" y="${y + 15}" text-anchor="end">${name}</text>
  <rect class="${kind}" x="${x.toFixed(1)}" y="${y + 2}" width="${width.toFixed(1)}" height="${ROW - 8}" rx="3"/>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-labelledby="title">
  <title id="title">The steps of a deploy in their order: ${shown.map(({ name }) => name).join(", ")}</title>
  <style>
    text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
    .note { font-size: 12px; fill: #59636e; }
    .step { fill: #8fb8e8; }
    .critical { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .note { fill: #9198a1; }
      .step { fill: #2f5d94; }
      .critical { fill: #58a6ff; }
    }
  </style>
${rows.join("\n")}
  <text class="note" x="${LEFT}" y="${height - 6}">A deploy of one edited line. Strong colour: the critical path.</text>
</svg>
`;
}

if (import.meta.main) console.log(drawDeploy(await Bun.file(process.argv[2]!).json()));
