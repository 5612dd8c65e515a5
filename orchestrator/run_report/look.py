"""How the report looks: one visual language with the other pages."""

STYLE = """
:root { color-scheme: light; --ink: #1f2733; --soft: #667085; --line: #d7dce3; --green: #207a4c; --red: #b42318; --amber: #b45309; --blue: #2563a8 }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1080px; margin: 32px auto; padding: 0 20px }
h1 { font-size: 22px; margin: 0 0 4px } h2 { font-size: 16px; margin: 30px 0 8px } p { margin: 6px 0 } .soft { color: var(--soft) }
.state { font-size: 12.5px; font-weight: 600; border-radius: 10px; padding: 2px 10px; margin-left: 8px; vertical-align: 3px; background: #eef0f3; color: var(--soft) }
.state.completed { background: #e8f3ec; color: var(--green) } .state.failed, .state.dead { background: #fbeae8; color: var(--red) } .state.running, .state.starting { background: #e9f0f9; color: var(--blue) }
.verdict { border-left: 6px solid var(--soft); background: #f7f8fa; padding: 10px 18px; margin: 16px 0; border-radius: 0 6px 6px 0 } .verdict > p { font-size: 17px; font-weight: 600; margin: 2px 0 8px }
.verdict.good { border-color: var(--green); background: #f1f8f4 } .verdict.doubtful { border-color: var(--amber); background: #fdf6ec } .verdict.bad { border-color: var(--red); background: #fdf1f0 }
.verdict ul { list-style: none; margin: 0; padding: 0 } .verdict li { display: grid; grid-template-columns: 20px 96px 1fr; padding: 2px 0; font-size: 14px } .verdict li b { font-weight: 600 }
.verdict > p em { font-weight: 400; font-size: 14px } .verdict em { color: var(--soft) }
.verdict li::before { content: "✓"; color: var(--green); font-weight: 700 } .verdict li.bad::before { content: "✗"; color: var(--red) } .verdict li.doubtful::before { content: "!"; color: var(--amber); padding-left: 4px } .verdict li.note::before { content: "·"; color: var(--soft); padding-left: 4px }
.problems { border: 1px solid var(--amber); border-radius: 6px; padding: 8px 16px; margin: 12px 0; font-size: 13.5px } .problems ul { margin: 4px 0; padding-left: 18px }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 } .tile { border: 1px solid var(--line); border-radius: 6px; padding: 8px 11px; min-width: 92px; flex: 1 } .tile b { display: block; font-size: 15px; font-variant-numeric: tabular-nums; white-space: nowrap } .tile span { color: var(--soft); font-size: 12px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 20px 18px } figure { margin: 0 } .charts figure { display: flex; flex-direction: column; justify-content: space-between } figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 2px } .charts figcaption { min-height: 20px }
.entry { font-weight: 400; font-size: 12px; color: var(--soft); margin-left: 10px; white-space: nowrap } .key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 4px -1px 0 }
.lanes figcaption { line-height: 1.7; margin-bottom: 6px } .lanes .entry { margin: 0 14px 0 0 }
svg { width: 100%; height: auto; font: 9.5px system-ui, sans-serif; display: block } svg text { fill: var(--soft) } svg text.label { font-size: 10.5px }
.lanes svg, .bars svg { font-size: 11px } svg text.who, svg text.sum { fill: var(--ink); font-size: 12px } svg text.on-work { fill: #fff; font-size: 11.5px } svg text.on-wait { fill: var(--ink); font-size: 11.5px; paint-order: stroke; stroke: #fff; stroke-width: 3px }
.grid { stroke: var(--line); stroke-width: .6 } polyline { fill: none; stroke-width: 1.7; stroke-linejoin: round } .lone { stroke: none } polygon { stroke: none } .whisker { stroke: var(--blue); stroke-width: 1.6 } .ground { fill: #f4f5f7 }
line.limit { stroke: var(--red); stroke-width: .9; stroke-dasharray: 4 3 } svg text.limit { fill: var(--red) } svg text.limit, svg text.aim, svg text.life { paint-order: stroke; stroke: #fff; stroke-width: 3px } line.aim { stroke: var(--soft); stroke-width: .9; stroke-dasharray: 4 3 } line.life { stroke: var(--ink); stroke-width: .9; stroke-dasharray: 2 2 } svg text.life { fill: var(--ink) }
.version { stroke: var(--amber); stroke-width: 1.1 } .fall { stroke-width: .9; stroke-dasharray: 3 2 } line.fall.fault { stroke: var(--red) } line.fall.fell { stroke: var(--amber) } .sign.fault { fill: var(--red) } .sign.fell { fill: var(--amber) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px } td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top } th { font-weight: 600; font-size: 13px } td.number, th.number { text-align: right; white-space: nowrap } code { font-size: 12.5px }
table.samples { table-layout: fixed; width: 100% } table.samples td { overflow-wrap: anywhere; white-space: pre-line } .prompt { color: var(--soft) } .score { color: var(--soft); font-size: 12px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 22px } .pair .verdict li { grid-template-columns: 20px 84px 1fr } .pair .verdict > p { font-size: 15px }
table.events td { overflow-wrap: anywhere } table.events td:nth-child(2), table.events td.who { white-space: nowrap } .dot { display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 6px; background: var(--soft) } .dot.fault, .dot.quarantine, .dot.refused { background: var(--red) } .dot.restart { background: var(--amber) } .dot.life { background: var(--blue) }
"""
