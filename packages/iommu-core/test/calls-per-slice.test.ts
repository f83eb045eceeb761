import { describeCalls } from "./support/calls-per-slice.js";

describeCalls([{ granularity: "block", largestBlock: 64 }, { granularity: "block" }]);
