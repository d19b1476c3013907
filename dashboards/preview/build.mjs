// page.tsx and all that it needs, as one file that a browser loads.
import { build } from 'esbuild';

const asData = ['woff', 'woff2', 'svg', 'png', 'ttf'].map((kind) => [`.${kind}`, 'dataurl']);
await build({
  entryPoints: ['page.tsx'],
  outfile: 'built/page.js',
  bundle: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"' },
  loader: Object.fromEntries(asData),
  logLevel: 'error',
});
