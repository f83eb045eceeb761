import { describeCalls } from "./support/calls-per-slice.js";

describeCalls([
  { granularity: "page" },
  { granularity: "page", largestBlock: 1 },
  { granularity: "page", largestBlock: 64, replace: true },
  { granularity: "block", largestBlock: 1, replace: true },
  { granularity: "block", largestBlock: 512 },
  { granularity: "block", largestBlock: 512, replace: true },
  { granularity: "block", replace: true },
]);
