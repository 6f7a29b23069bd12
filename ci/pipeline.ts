import { main } from "./slipway/main.ts";

process.exit(await main(process.argv.slice(2)));
