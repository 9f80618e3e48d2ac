<#
.SYNOPSIS
Tests the way to the children's social care API: gets an access token and posts an empty list.

.DESCRIPTION
For a machine on which the program itself cannot run yet. Needs Windows PowerShell 5.1 and nothing else: no module,
no administrator. Nothing of a child is read or sent, and no secret or token is ever shown.

The settings are those of the program. Each is taken from its parameter, else from the environment, else from the
file .env beside this script.

Each hop gets a line: settings, proxy, DNS, TCP, TLS, token, supplier key, LA code. FAIL says what to try.

Works in Constrained Language Mode (AppLocker, WDAC) too, with the cmdlets alone: then certificates are not looked
at on their own, and the protocol is the one that Windows has switched on.

Exit codes, as those of the program's test-endpoint:
  0 the API can be used    2 a setting is missing or wrong    4 the API cannot be used

.PARAMETER EnvFile
The file with the settings, by default .env beside this script.

.PARAMETER Proxy
Address of the proxy, for example http://proxy:8080. Without it HTTPS_PROXY counts, else what Windows has set.

.PARAMETER ProxyUseDefaultCredentials
Logs on to the proxy as the account that runs this script.

.PARAMETER ClientSecret
The client secret. Better left in .env: a command line is kept in the history of PowerShell.

.EXAMPLE
powershell -NoProfile -ExecutionPolicy Bypass -File .\api_credentials_smoke_test.ps1

.EXAMPLE
.\api_credentials_smoke_test.ps1 -Proxy http://proxy:8080 -ProxyUseDefaultCredentials
#>
[CmdletBinding()]
param(
    [string]$EnvFile,
    [string]$ApiEndpoint,
    [string]$LaCode,
    [string]$TokenEndpoint,
    [string]$ClientId,
    [string]$ClientSecret,
    [string]$Scope,
    [string]$SupplierKey,
    [string]$Proxy,
    [switch]$ProxyUseDefaultCredentials,
    [ValidateRange(1, 600)]
    [int]$TimeoutSeconds = 30
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$OK = 0
$USAGE = 2
$API = 4
# Methods of .NET may only be called in the full language.
$full = "$($ExecutionContext.SessionState.LanguageMode)" -eq 'FullLanguage'

function Show([string]$verdict, [string]$hop, [string]$message) {
    Write-Output ('{0,-5} {1,-13} {2}' -f $verdict, $hop, $message)
}

function Show-Remedy([string]$message) {
    Write-Output ('{0,-5} {1,-13} {2}' -f '', '', $message)
}

# --- Settings ------------------------------------------------------------------------------------------------

# Reads KEY=value lines; quotes around a value go, a value without quotes ends before a blank and a #.
function Read-EnvFile([string]$path) {
    $found = @{}
    foreach ($line in (Get-Content -LiteralPath $path)) {
        if ($line -match '^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$') {
            $key = $Matches[1]
            $value = $Matches[2]
            if ($value -match "^'([^']*)'" -or $value -match '^"([^"]*)"') {
                $value = $Matches[1]
            }
            elseif ($value -match '^#') {
                $value = ''
            }
            else {
                $value = $value -replace '\s+#.*$', ''
            }
            $found[$key] = $value
        }
    }
    return $found
}

function Get-Setting([string]$key, [string]$given, $file) {
    if ($given) { return $given }
    $variable = Get-Item -LiteralPath "Env:$key" -ErrorAction SilentlyContinue
    if ($variable -and $variable.Value) { return $variable.Value }
    if ($file.ContainsKey($key)) { return $file[$key] }
    return ''
}

$file = @{}
if (-not $EnvFile -and $PSScriptRoot) {
    $beside = Join-Path $PSScriptRoot '.env'
    if (Test-Path -LiteralPath $beside -PathType Leaf) { $EnvFile = $beside }
}
elseif ($EnvFile -and -not (Test-Path -LiteralPath $EnvFile -PathType Leaf)) {
    Show 'FAIL' 'settings' "There is no file $EnvFile."
    exit $USAGE
}
if ($EnvFile) {
    try { $file = Read-EnvFile $EnvFile }
    catch {
        Show 'FAIL' 'settings' "The file $EnvFile cannot be read."
        exit $USAGE
    }
}

$base = (Get-Setting 'API_ENDPOINT' $ApiEndpoint $file).Trim()
$la = (Get-Setting 'LA_CODE' $LaCode $file).Trim()
$tokenAddress = (Get-Setting 'TOKEN_ENDPOINT' $TokenEndpoint $file).Trim()
$id = Get-Setting 'CLIENT_ID' $ClientId $file
$secret = Get-Setting 'CLIENT_SECRET' $ClientSecret $file
$wantedScope = Get-Setting 'SCOPE' $Scope $file
$key = Get-Setting 'SUPPLIER_KEY' $SupplierKey $file
if (-not $Proxy) { $Proxy = Get-Setting 'HTTPS_PROXY' '' $file }
$agent = Get-Setting 'USER_AGENT' '' $file
if (-not $agent) { $agent = 'csc-api-pipeline-smoke-test' }

$faults = @()
foreach ($pair in @(
        @('API_ENDPOINT', $base), @('TOKEN_ENDPOINT', $tokenAddress), @('CLIENT_ID', $id),
        @('CLIENT_SECRET', $secret), @('SCOPE', $wantedScope), @('SUPPLIER_KEY', $key))) {
    if (-not $pair[1]) { $faults += "$($pair[0]) is not set." }
}
foreach ($pair in @(@('CLIENT_SECRET', $secret), @('SUPPLIER_KEY', $key))) {
    if ($pair[1] -like 'keyring:*') { $faults += "$($pair[0]) is in the Credential Manager, which only the program reads." }
}
foreach ($pair in @(@('API_ENDPOINT', $base), @('TOKEN_ENDPOINT', $tokenAddress))) {
    if ($pair[1] -and $pair[1] -notmatch '^https://[^/\s]+' -and
        $pair[1] -notmatch '^http://(localhost|127\.0\.0\.1)([:/]|$)') {
        $faults += "$($pair[0]) is no https:// address."
    }
}
$base = $base.TrimEnd('/')
if ($base -like '*/children_social_care_data/*') {
    $address = $base
}
else {
    if ($la -notmatch '^[0-9]{3}$') { $faults += 'LA_CODE is not 3 digits.' }
    $address = "$base/children_social_care_data/$la/children"
}
if ($faults.Count -gt 0) {
    foreach ($fault in $faults) { Show 'FAIL' 'settings' $fault }
    Show-Remedy 'Set it in .env beside this script, in the environment, or as a parameter: Get-Help shows them.'
    exit $USAGE
}
Show 'ok' 'settings' 'All are there.'
if (-not $full) {
    Show 'note' 'settings' 'PowerShell runs in Constrained Language Mode: TLS is tested with the token, not on its own.'
}

# --- The way there -------------------------------------------------------------------------------------------

$through = @{}
if ($Proxy) {
    if ($Proxy -notmatch '^https?://') { $Proxy = "http://$Proxy" }
    # A user name and password in the address would be shown, and the cmdlets do not take them from there.
    if ($Proxy -match '@') {
        Show 'FAIL' 'proxy' 'The address of the proxy holds a user name. Leave it out and use -ProxyUseDefaultCredentials.'
        exit $USAGE
    }
    $through['Proxy'] = $Proxy
    if ($ProxyUseDefaultCredentials) { $through['ProxyUseDefaultCredentials'] = $true }
    Show 'ok' 'proxy' "Requests go through $Proxy."
}
elseif ($full) {
    $system = [System.Net.WebRequest]::GetSystemWebProxy()
    $target = New-Object System.Uri $tokenAddress
    if ($system.IsBypassed($target)) {
        Show 'ok' 'proxy' 'None: Windows has no proxy set for this address.'
    }
    else {
        $Proxy = $system.GetProxy($target).AbsoluteUri
        $through['Proxy'] = $Proxy
        $through['ProxyUseDefaultCredentials'] = $true
        Show 'ok' 'proxy' "Requests go through $Proxy, as this account's Windows settings say."
        Show-Remedy 'A service account may have other settings: the program wants HTTPS_PROXY.'
    }
}
else {
    Show 'ok' 'proxy' 'None was named; what Windows has set counts.'
}
if ($ProxyUseDefaultCredentials -and -not $Proxy) {
    Show 'note' 'proxy' '-ProxyUseDefaultCredentials does nothing without a proxy: name it with -Proxy.'
}

# HOST and PORT of an address, without the classes that Constrained Language Mode refuses.
function Split-Address([string]$url) {
    $url -match '^(https?)://(?:[^/@]*@)?(\[[^\]]+\]|[^:/?#]+)(?::([0-9]+))?' | Out-Null
    $port = 443
    if ($Matches[1] -eq 'http') { $port = 80 }
    if ($Matches.ContainsKey(3)) { $port = [int]$Matches[3] }
    return @{ Name = $Matches[2]; Port = $port; Tls = ($Matches[1] -eq 'https') }
}

# Each test writes its lines, and sets this to false where there is no going on.
$script:passed = $true

function Test-Name([string]$name, [bool]$needed) {
    if ($name -match '^[0-9.]+$' -or $name -match '^\[') { return }
    $known = $false
    try {
        if ($full) { $known = @([System.Net.Dns]::GetHostAddresses($name)).Count -gt 0 }
        else { $known = @(Resolve-DnsName -Name $name -ErrorAction Stop).Count -gt 0 }
    }
    catch { $known = $false }
    if ($known) {
        Show 'ok' 'DNS' "$name has an address."
    }
    elseif ($needed) {
        Show 'FAIL' 'DNS' "$name is not known here."
        Show-Remedy 'Check its spelling; where only a proxy reaches the internet, name it with -Proxy.'
        $script:passed = $false
    }
    else {
        Show 'note' 'DNS' "$name is not known here; the proxy looks it up."
    }
}

function Test-Port($where) {
    $open = $false
    if ($full) {
        $client = New-Object System.Net.Sockets.TcpClient
        try {
            $attempt = $client.BeginConnect($where.Name.Trim('[]'), $where.Port, $null, $null)
            if ($attempt.AsyncWaitHandle.WaitOne($TimeoutSeconds * 1000)) {
                $client.EndConnect($attempt)
                $open = $true
            }
        }
        catch { $open = $false }
        finally { $client.Close() }
    }
    else {
        $open = Test-NetConnection -ComputerName $where.Name -Port $where.Port -InformationLevel Quiet -WarningAction SilentlyContinue
    }
    if ($open) {
        Show 'ok' 'TCP' "$($where.Name) accepts connections on port $($where.Port)."
    }
    else {
        Show 'FAIL' 'TCP' "$($where.Name) cannot be reached on port $($where.Port)."
        Show-Remedy 'Ask IT to let this machine reach it; where only a proxy does, name it with -Proxy.'
        $script:passed = $false
    }
}

function Test-Encryption($where) {
    $client = New-Object System.Net.Sockets.TcpClient
    $stream = $null
    try {
        $client.Connect($where.Name.Trim('[]'), $where.Port)
        $stream = New-Object -TypeName System.Net.Security.SslStream -ArgumentList ($client.GetStream())
        $stream.AuthenticateAsClient($where.Name, $null, [System.Security.Authentication.SslProtocols]::Tls12, $false)
        Show 'ok' 'TLS' "$($where.Name): TLS 1.2, certificate by $($stream.RemoteCertificate.Issuer)."
    }
    catch {
        Show 'FAIL' 'TLS' "$($where.Name): no trusted TLS 1.2 connection."
        Show-Remedy 'Where a proxy inspects the traffic, its certificate has to be in the machine''s store (IT). Check the clock too.'
        $script:passed = $false
    }
    finally {
        if ($stream) { $stream.Dispose() }
        $client.Close()
    }
}

if ($full) {
    [System.Net.ServicePointManager]::SecurityProtocol = [System.Net.SecurityProtocolType]::Tls12
    # Otherwise each request asks first whether it may send its body, which some proxies answer with 417.
    [System.Net.ServicePointManager]::Expect100Continue = $false
}

$hosts = @()
if ($Proxy) {
    $relay = Split-Address $Proxy
    Test-Name $relay.Name $true
    if (-not $script:passed) { exit $API }
    Test-Port $relay
    if (-not $script:passed) { exit $API }
}
foreach ($url in @($tokenAddress, $address)) {
    $where = Split-Address $url
    $spelt = "$($where.Name):$($where.Port)"
    if ($hosts -contains $spelt) { continue }
    $hosts += $spelt
    Test-Name $where.Name (-not $Proxy)
    if (-not $script:passed) { exit $API }
    if (-not $Proxy) {
        Test-Port $where
        if (-not $script:passed) { exit $API }
        if ($full -and $where.Tls) {
            Test-Encryption $where
            if (-not $script:passed) { exit $API }
        }
    }
}

# --- Requests ------------------------------------------------------------------------------------------------

# Status, type of the content and text of an answer, also of one that PowerShell calls an error; status 0: none.
# Number: that of Microsoft's log-on, for example AADSTS7000222, after a comma.
function Send-Request([string]$url, [string]$type, $body, $headers) {
    $arguments = @{
        Uri = $url
        Method = 'Post'
        ContentType = $type
        Body = $body
        Headers = $headers
        UserAgent = $agent
        TimeoutSec = $TimeoutSeconds
        MaximumRedirection = 0
        UseBasicParsing = $true
        # A redirect is an error that lets the answer through; what else goes wrong is thrown all the same.
        ErrorAction = 'SilentlyContinue'
    }
    foreach ($name in $through.Keys) { $arguments[$name] = $through[$name] }
    $status = 0
    $kind = ''
    $text = ''
    $fault = ''
    $number = ''
    try {
        $reply = Invoke-WebRequest @arguments
        $status = [int]$reply.StatusCode
        $text = "$($reply.Content)"
        try { $kind = "$($reply.Headers['Content-Type'])" } catch { $kind = '' }
    }
    catch {
        # The text of an error answer is not kept: it could repeat what was sent. An exception need not have
        # any of these, and then reading it is an error too.
        $why = $_.Exception
        if ("$($_.ErrorDetails)" -match 'AADSTS[0-9]{4,8}') { $number = ", $($Matches[0])" }
        try { $fault = "$($why.Status)" } catch { $fault = 'unknown reason' }
        try { $status = [int]$why.Response.StatusCode } catch { $status = 0 }
        try { $kind = "$($why.Response.ContentType)" } catch { $kind = '' }
    }
    return @{ Status = $status; Type = $kind; Text = $text; Fault = $fault; Number = $number }
}

function Show-NoAnswer([string]$hop, $reply) {
    switch ($reply.Fault) {
        'NameResolutionFailure' {
            Show 'FAIL' 'DNS' 'The name of the server is not known here.'
            Show-Remedy 'Where only a proxy reaches the internet, name it with -Proxy.'
        }
        'ProxyNameResolutionFailure' {
            Show 'FAIL' 'proxy' 'The name of the proxy is not known here.'
            Show-Remedy 'Check -Proxy or HTTPS_PROXY.'
        }
        'TrustFailure' {
            Show 'FAIL' 'TLS' 'The certificate is not trusted by this machine.'
            Show-Remedy 'Where a proxy inspects the traffic, its certificate has to be in the machine''s store (IT).'
        }
        'SecureChannelFailure' {
            Show 'FAIL' 'TLS' 'No encrypted connection came about.'
            Show-Remedy 'TLS 1.2 has to be switched on in Windows, and a firewall must not break it (IT).'
        }
        'Timeout' {
            Show 'FAIL' $hop "There was no answer within $TimeoutSeconds seconds."
            Show-Remedy 'Try again later, or with a larger -TimeoutSeconds.'
        }
        default {
            Show 'FAIL' $hop "There was no answer ($($reply.Fault))."
            Show-Remedy 'A firewall or a proxy may be in between: ask IT, or name the proxy with -Proxy.'
        }
    }
}

# Answers that mean the same wherever they come from; of any other nothing is said here.
function Show-CommonFault([string]$hop, $reply) {
    $script:passed = $false
    if ($reply.Status -eq 0) {
        Show-NoAnswer $hop $reply
    }
    elseif ($reply.Status -eq 407) {
        Show 'FAIL' 'proxy' 'The proxy wants to know who is asking (407).'
        Show-Remedy 'Try -ProxyUseDefaultCredentials, or ask IT to let the two hosts through without a log-on.'
    }
    elseif ($reply.Status -ge 300 -and $reply.Status -lt 400) {
        Show 'FAIL' $hop "The answer leads elsewhere ($($reply.Status)): that is a portal or a proxy, not the service."
        Show-Remedy 'Check the address; ask IT whether a log-on page stands in between.'
    }
    elseif ($reply.Status -eq 408 -or $reply.Status -eq 429 -or $reply.Status -ge 500) {
        Show 'FAIL' $hop "The service is not available at the moment ($($reply.Status))."
        Show-Remedy 'Try again later.'
    }
    else {
        $script:passed = $true
    }
}

$form = @{ grant_type = 'client_credentials'; client_id = $id; client_secret = $secret; scope = $wantedScope }
$reply = Send-Request $tokenAddress 'application/x-www-form-urlencoded' $form @{}
$bearer = ''
if ($reply.Status -eq 200) {
    try { $bearer = (ConvertFrom-Json -InputObject $reply.Text).access_token }
    catch { $bearer = '' }
    if (-not $bearer) {
        Show 'FAIL' 'token' 'The answer is no token: another server may have given it.'
        Show-Remedy 'Check TOKEN_ENDPOINT, and whether a proxy stands in between.'
        exit $API
    }
}
else {
    Show-CommonFault 'token' $reply
    if (-not $script:passed) { exit $API }
    Show 'FAIL' 'token' "The token was refused ($($reply.Status)$($reply.Number))."
    switch ($reply.Status) {
        400 { Show-Remedy 'Check CLIENT_ID, SCOPE and the tenant in TOKEN_ENDPOINT.' }
        401 { Show-Remedy 'Check CLIENT_SECRET: it may be misspelt, or have expired. It is the value, not the id, of the secret.' }
        404 { Show-Remedy 'Check TOKEN_ENDPOINT.' }
        default { Show-Remedy 'Check TOKEN_ENDPOINT and CLIENT_ID; a firewall may refuse the request too.' }
    }
    exit $API
}
Show 'ok' 'token' 'A token was issued.'

$headers = @{ Authorization = "Bearer $bearer"; SupplierKey = $key }
$reply = Send-Request $address 'application/json' '[]' $headers
$html = $reply.Type -like 'text/html*'
if (@(200, 204, 400, 422) -contains $reply.Status -and -not $html) {
    Show 'ok' 'supplier key' 'It was accepted.'
    Show 'ok' 'LA code' 'The address and the LA code are known.'
    Show 'ok' 'API' "It answered $($reply.Status) to an empty list, as it should."
    Write-Output ''
    Write-Output 'PASSED: the API can be used from here.'
    exit $OK
}
Show-CommonFault 'API' $reply
if (-not $script:passed) { exit $API }
switch ($reply.Status) {
    401 {
        Show 'FAIL' 'supplier key' 'The API answered 401, although the token has just been issued.'
        Show-Remedy 'Check SUPPLIER_KEY first, then SCOPE, and that TOKEN_ENDPOINT and API_ENDPOINT belong together.'
    }
    403 {
        Show 'FAIL' 'supplier key' 'The API answered 403: access is not allowed.'
        Show-Remedy 'Ask DfE whether the subscription is for this API and this address of yours; a firewall may have refused it too.'
    }
    404 {
        Show 'FAIL' 'LA code' 'The API answered 404: it knows no such address or LA code.'
        Show-Remedy 'Check API_ENDPOINT and LA_CODE.'
    }
    default {
        if ($html) {
            Show 'FAIL' 'API' "The answer is a web page ($($reply.Status)): that is a portal or a proxy, not the API."
            Show-Remedy 'Check API_ENDPOINT; ask IT whether a log-on page stands in between.'
        }
        else {
            Show 'FAIL' 'API' "The API gave an answer that it should not give ($($reply.Status))."
            Show-Remedy 'Tell DfE the time and this number.'
        }
    }
}
exit $API
