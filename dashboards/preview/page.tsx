// Draws one committed dashboard with live data: `index.html?page=NAME&prometheus=URL&from=S&to=S`.
//
// Stat and time series panels are Grafana's own components. Heatmaps, tables and state timelines
// are not published outside of Grafana's server: those are drawn here, simply, and say so.

import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import {
  createTheme, dateTime, FieldType, getDisplayProcessor, toDataFrame, type DataFrame, type Field,
} from '@grafana/data';
import {
  BigValue, BigValueColorMode, BigValueGraphMode, BigValueJustifyMode, BigValueTextMode,
  GlobalStyles, PanelChrome, PortalContainer, TimeSeries,
} from '@grafana/ui';
import { ThemeContext } from '@grafana/data';
import React, { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { MemoryRouter } from 'react-router-dom';

const asked = new URLSearchParams(location.search);
const server = asked.get('prometheus')!;
const [from, to] = [Number(asked.get('from')), Number(asked.get('to'))];
const STEP_S = 2;
const COLUMN_PX = 56;
const ROW_PX = 38;
const theme = createTheme({ colors: { mode: 'dark' } });

type Json = any;
type Series = { metric: Record<string, string>; values: [number, string][] };

const filled = (text: string): string =>
  text
    .replaceAll('$__rate_interval', '20s')
    .replaceAll('$__range', `${Math.round(to - from)}s`)
    .replace(/\$(job|instance|route|dialect|model)\b/g, '.+');

async function ask(target: Json, instant: boolean): Promise<Series[]> {
  const about = instant
    ? { time: `${to}` }
    : { start: `${from}`, end: `${to}`, step: `${STEP_S}` };
  const query = new URLSearchParams({ query: filled(target.expr), ...about });
  const answer = await (await fetch(`${server}/api/v1/query${instant ? '' : '_range'}?${query}`)).json();
  if (answer.status !== 'success') throw new Error(`${answer.error}: ${target.expr}`);
  return answer.data.result.map((one: Json) => ({ metric: one.metric, values: one.values ?? [one.value] }));
}

// The exemplars behind a heatmap, as [seconds, value].
async function exemplars(target: Json): Promise<[number, number][]> {
  const query = new URLSearchParams({ query: filled(target.expr), start: `${from}`, end: `${to}` });
  const answer = await (await fetch(`${server}/api/v1/query_exemplars?${query}`)).json();
  return answer.data.flatMap((one: Json) => one.exemplars.map((at: Json) => [at.timestamp, Number(at.value)]));
}

const legend = (target: Json, series: Series): string =>
  (target.legendFormat || target.refId).replace(/{{\s*(\w+)\s*}}/g, (_: string, name: string) => series.metric[name] ?? '');

// The field's settings as the panel has them: defaults, then overrides by name.
function configured(field: Field, name: string, panel: Json): Field {
  const config: Json = structuredClone(panel.fieldConfig.defaults);
  config.displayName = name;
  config.color ??= { mode: panel.type === 'stat' ? 'thresholds' : 'palette-classic' };
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    if (matcher.id !== 'byName' || matcher.options !== name) continue;
    for (const { id, value } of properties) {
      if (id === 'unit' || id === 'decimals' || id === 'color') config[id] = value;
      if (id === 'custom.axisPlacement') config.custom.axisPlacement = value;
    }
  }
  const whole = { ...field, config };
  whole.display = getDisplayProcessor({ field: whole, theme, timeZone: 'utc' });
  return whole;
}

function frames(panel: Json, answers: Series[][]): DataFrame[] {
  let index = 0;
  return answers.flatMap((found, query) =>
    found.map((series) => {
      const target = panel.targets[query];
      const frame = toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'time', type: FieldType.time, values: series.values.map(([s]) => s * 1000) },
          { name: 'value', type: FieldType.number, values: series.values.map(([, v]) => (v === 'NaN' ? null : Number(v))) },
        ],
      });
      frame.fields[1] = configured(frame.fields[1], legend(target, series), panel);
      frame.fields[1].state = { seriesIndex: index++ };
      return frame;
    })
  );
}

function Curves({ panel, answers, width, height }: Json) {
  const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
  return (
    <TimeSeries
      frames={frames(panel, answers)} width={width} height={height} timeZone="utc" structureRev={1}
      timeRange={{ ...range, raw: range } as Json} legend={{ ...panel.options.legend, calcs: [], displayMode: 'list' }}
      options={panel.options}
    />
  );
}

function Figure({ panel, answers, width, height }: Json) {
  const [frame] = frames(panel, answers);
  const field = frame?.fields[1];
  const shown = field ? field.display!(field.values[field.values.length - 1]) : { text: 'No data', numeric: NaN };
  return (
    <BigValue
      value={{ ...shown, title: undefined }} width={width} height={height} theme={theme}
      colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None}
      justifyMode={BigValueJustifyMode.Center} textMode={BigValueTextMode.Value}
    />
  );
}

const heatColor = (share: number): string => `hsl(${240 - 240 * share}, 85%, ${22 + 35 * share}%)`;
const edge = (series: Series): number => Number(series.metric.le?.replace('+Inf', 'Infinity'));
const word = (s: number): string => (s === Infinity ? '∞' : s < 1 ? `${s * 1000} ms` : `${s} s`);

function Heat({ answers, width, height }: Json) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const draw = canvas.current!.getContext('2d')!;
    const rows = [...answers[0]].sort((a: Series, b: Series) => edge(a) - edge(b));
    const at = (row: Series) => new Map(row.values.map(([s, v]) => [s, Number(v)]));
    const known = rows.map(at);
    const counts = known.map((row, y) => new Map([...row].map(([s, v]) => [s, Math.max(0, v - (y ? known[y - 1].get(s) ?? 0 : 0))])));
    const most = Math.max(1e-9, ...counts.flatMap((row) => [...row.values()]));
    const left = 64, columns = Math.round((to - from) / STEP_S) + 1;
    const [w, h] = [(width - left) / columns, (height - 34) / rows.length];
    draw.font = '11px Inter';
    rows.forEach((row, y) => {
      const top = (rows.length - 1 - y) * h;
      draw.fillStyle = '#ccccdc';
      if (y % 2 === 0) draw.fillText(word(edge(row)), 4, top + h);
      for (const [s, value] of counts[y]) {
        if (value <= 0) continue;
        draw.fillStyle = heatColor(Math.sqrt(value / most));
        draw.fillRect(left + ((s - from) / STEP_S) * w, top, Math.ceil(w), Math.ceil(h) - 1);
      }
    });
    draw.fillStyle = 'rgba(255,255,255,0.8)';
    for (const [s, value] of answers[1]) {
      const y = rows.findIndex((row: Series) => value <= edge(row));
      draw.fillRect(left + ((s - from) / STEP_S) * w - 2, (rows.length - 0.5 - y) * h - 2, 4, 4);
    }
    draw.fillStyle = '#8e8e99';
    draw.fillText('drawn by the preview, not by Grafana; points are exemplars', left, height - 6);
  }, []);
  return <canvas ref={canvas} width={width} height={height} />;
}

function Rows({ panel, answers }: Json) {
  const columns: string[] = panel.targets.map(
    (one: Json) => panel.transformations[1].options.renameByName[`Value #${one.refId}`]
  );
  const lines = new Map<string, string[]>();
  answers.forEach((found: Series[], column: number) =>
    found.forEach((series) => {
      const key = Object.values(series.metric).join(' · ');
      const line = lines.get(key) ?? lines.set(key, columns.map(() => '')).get(key)!;
      const field = configured({ name: '', type: FieldType.number, values: [], config: {} }, columns[column], panel);
      const { prefix = '', text, suffix = '' } = field.display!(Number(series.values[0][1])) as Json;
      line[column] = `${prefix}${text}${suffix}`;
    })
  );
  const cell = { padding: '3px 12px', borderBottom: '1px solid #2c2f36', textAlign: 'left' } as const;
  return (
    <div style={{ fontSize: 12 }}>
      <table>
        <thead><tr>{['', ...columns].map((one) => <th key={one} style={cell}>{one}</th>)}</tr></thead>
        <tbody>
          {[...lines].slice(0, 9).map(([key, line]) => (
            <tr key={key}><td style={cell}>{key}</td>{line.map((one, n) => <td key={n} style={cell}>{one}</td>)}</tr>
          ))}
        </tbody>
      </table>
      <small style={{ color: '#8e8e99' }}>drawn by the preview, not by Grafana</small>
    </div>
  );
}

function States({ panel, answers, width, height }: Json) {
  const meanings = panel.fieldConfig.defaults.mappings.map((one: Json) => one.options);
  const colorOf = (v: number): string => {
    const { result } = meanings.findLast((one: Json) => v >= one.from) ?? meanings[0];
    return theme.visualization.getColorByName(result.color);
  };
  const [left, h] = [150, Math.min(26, (height - 20) / Math.max(1, answers[0].length))];
  return (
    <svg width={width} height={height} fontSize={11} fill="#ccccdc">
      {answers[0].map((series: Series, y: number) => (
        <g key={y}>
          <text x={4} y={y * h + h / 1.6}>{legend(panel.targets[0], series)}</text>
          {series.values.filter(([, v]) => v !== 'NaN').map(([s, v]) => (
            <rect
              key={s} y={y * h + 2} height={h - 4} fill={colorOf(Number(v))}
              x={left + ((s - from) / (to - from)) * (width - left)} width={(STEP_S / (to - from)) * (width - left) + 1}
            />
          ))}
        </g>
      ))}
      <text x={left} y={height - 4} fill="#8e8e99">drawn by the preview, not by Grafana</text>
    </svg>
  );
}

const KINDS: Record<string, React.FC<Json>> = {
  stat: Figure, timeseries: Curves, heatmap: Heat, table: Rows, 'state-timeline': States,
};

function Panel({ panel }: { panel: Json }) {
  const [answers, setAnswers] = useState<Series[][]>();
  const instant = panel.type === 'stat' || panel.type === 'table';
  useEffect(() => {
    const asked = panel.targets.map((one: Json) => ask(one, instant));
    if (panel.type === 'heatmap') asked.push(exemplars(panel.targets[0]));
    Promise.all(asked).then(setAnswers, (error) => {
      document.title = `failed: ${error.message}`;
    });
  }, []);
  const Kind = KINDS[panel.type];
  const { x, y, w, h } = panel.gridPos;
  return (
    <div style={{ position: 'absolute', left: x * COLUMN_PX + 8, top: y * ROW_PX + 8 }} data-ready={!!answers}>
      <PanelChrome title={panel.title} description={panel.description} width={w * COLUMN_PX - 8} height={h * ROW_PX - 8}>
        {(width, height) => (answers ? <Kind panel={panel} answers={answers} width={width} height={height} /> : <span />)}
      </PanelChrome>
    </div>
  );
}

function Page({ page }: { page: Json }) {
  const last = page.panels.at(-1).gridPos;
  return (
    <div id="page" style={{ position: 'relative', width: 24 * COLUMN_PX + 16, height: (last.y + last.h) * ROW_PX + 16, background: theme.colors.background.canvas }}>
      {page.panels.map((one: Json) =>
        one.type === 'row'
          ? <h4 key={one.id} style={{ position: 'absolute', left: 16, top: one.gridPos.y * ROW_PX + 16 }}>{one.title}</h4>
          : <Panel key={one.id} panel={one} />
      )}
    </div>
  );
}

await Promise.all(['400', '500'].map((weight) => document.fonts.load(`${weight} 14px Inter`)));
const page = await (await fetch(asked.get('page')!)).json();
createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}>
    <MemoryRouter>
      <GlobalStyles />
      <Page page={page} />
      <PortalContainer />
    </MemoryRouter>
  </ThemeContext.Provider>
);
